#!/usr/bin/python3
"""A guest works on while the daemon is killed under it, again and again.

The guest packs and unpacks its own /usr and sums up what it got; meanwhile the daemon is killed
with SIGKILL (every fourth time stopped with SIGTERM) and started again. QEMU's NBD client waits and
sends again what was not answered. The guest must notice nothing: no error in its log, every
checksum right, then and with an empty page cache. After it has shut down the daemon is killed once
more, and the host looks for itself: e2fsck on the exported disk, and the same checksums.

SQUALL_ROUNDS: kills (3; ten or more for a long run). SQUALL_SEED: repeats the choices of a run.
"""

import os
import random
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))

from crash_support import ConfiguredDaemon, seed_from_environment
from guest import Guest, template

ROUNDS = int(os.environ.get("SQUALL_ROUNDS", "3"))

# $1: how many times at least; goes on until /stop is there. The first sums are the reference.
WORK = """
cd /usr
set -e
find bin sbin lib/systemd lib/x86_64-linux-gnu -type f | sort | head -n 250 >/w/files
xargs sha256sum </w/files >/w/sums
n=0
while [ $n -lt $1 ] || [ ! -e /stop ]; do
n=$((n + 1))
rm -rf /w/old
[ ! -d /w/new ] || mv /w/new /w/old
mkdir /w/new
tar -cf /w/usr.tar -T /w/files
[ $((n % 2)) = 0 ] || sync
tar -C /w/new -xf /w/usr.tar
(cd /w/new && xargs sha256sum </w/files) >/w/new.sums
cmp /w/sums /w/new.sums
echo $n >/w/count
done
"""


def kill_under(daemon, guest, choices):
    away_s = []
    for number in range(ROUNDS):
        time.sleep(choices.uniform(1, 5))
        daemon.stop() if number % 4 == 3 else daemon.kill()
        began = time.monotonic()
        while choices.random() < 0.3:
            daemon.start_and_kill(choices.uniform(0, 0.1))
        time.sleep(choices.uniform(0, 2))
        daemon.start()
        away_s.append(time.monotonic() - began)
        assert guest.process.poll() is None, "the guest is gone"
    return away_s


def check_inside(console):
    console.run("sync; echo 3 >/proc/sys/vm/drop_caches")
    console.run("cd /w/new && sha256sum --quiet -c /w/sums")
    console.run("cd /w/old && sha256sum --quiet -c /w/sums")
    console.run("cd /usr && sha256sum --quiet -c /w/sums && cmp /w/sums /w/new.sums")
    mounts = console.run("grep ' / ' /proc/mounts")
    assert " rw," in mounts, mounts


def check_from_outside(daemon):
    disk = os.path.join(daemon.home, "disk.raw")
    daemon.squall("volume", "export", "vm", disk)
    run("e2fsck", "-fn", disk)
    out = os.path.join(daemon.home, "out")
    os.mkdir(out)
    run("debugfs", "-R", f"rdump /w {out}", disk)
    for directory in ("new", "old"):
        run("sha256sum", "--quiet", "-c", "../sums", cwd=os.path.join(out, "w", directory))


def run(*command, **options):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, **options)
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}"


def main():
    choices = random.Random(seed_from_environment())
    files = template()
    with ConfiguredDaemon({"journal": {"size": "64M"}}) as daemon:
        daemon.squall("image", "import", "debian", files / "debian.raw")
        daemon.squall("volume", "create", "vm", "--from", "debian")
        with Guest(daemon, ["vm"]) as guest:
            console = guest.console
            console.run("set +m; mkdir /w")
            console.upload("/w/work", WORK)
            console.run("sh /w/work 2 >/w/log 2>&1 & true")
            away_s = kill_under(daemon, guest, choices)
            console.run("touch /stop; wait $! || { cat /w/log; false; }")
            count = console.run("cat /w/count").strip()
            check_inside(console)
            assert guest.complaints() == "", guest.complaints()
            guest.power_off()
        daemon.restart(crash=True)
        check_from_outside(daemon)
        daemon.squall("check", "--rate", "0")
        assert "[error]" not in daemon.log(), daemon.log()
        print(f"{ROUNDS} kills, the daemon away for {sum(away_s):.1f} s; the guest unpacked "
              f"{count} times")


if __name__ == "__main__":
    main()
