#!/usr/bin/python3
"""ext4 and xfs survive the death of guest and daemon together, by the word of their own fsck.

A guest writes files to four volumes at once, ext4 and xfs in both durability scopes, and says on
its console which file it has synced, and its checksum. Guest and daemon are killed (SIGKILL both:
the guest's page cache is gone, what the daemon had acknowledged is not). Another guest replays the
file systems' logs, and every synced file must be there with its checksum; then it writes on and
both are killed again. This time the host's journal is lost, too: the volumes of scope `pool` are taken
over, hold what was flushed and not all that was written, and must satisfy the same.

The host makes the file systems and checks them: ext4 at once after each kill (e2fsck replays the
log, then must find nothing), xfs when the guest has replayed its log (xfs_repair has no replay).

SQUALL_ROUNDS: kills of both before the loss of the journal (1). SQUALL_SEED: repeats the choices.
"""

import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))

from crash_support import ConfiguredDaemon, seed_from_environment
from guest import Guest, template

ROUNDS = int(os.environ.get("SQUALL_ROUNDS", "1"))
DISKS = {  # in the order of /dev/vdb, vdc, ...
    "ext4": (), "xfs": (),
    "ext4-pool": ("--durability", "pool"), "xfs-pool": ("--durability", "pool"),
}
# Two volumes are clones of one image, and so have one UUID, which xfs minds.
MOUNT_OPTIONS = {"ext4": "rw", "xfs": "nouuid"}
MKFS = {"ext4": ("mkfs.ext4", "-q"), "xfs": ("mkfs.xfs", "-q")}
SYNCED_MIN = 6  # files per volume before each kill
SIZE = 320 << 20  # mkfs.xfs makes none below 300 MiB

# $1: where. Every file is announced when it is durable; every third one is replaced later, without
# a sync, and others come and go: work for the logs.
WRITE = """
cd $1
n=$(ls | wc -l)
while true; do
n=$((n + 1))
f=$2-$n
dd if=/dev/urandom of=new bs=1k count=$((n * 37 % 300 + 1)) status=none
sum=$(sha256sum <new)
mv new $f
sync $f .
echo "synced $3 $f ${sum%% *}"
cp $f copy-$((n % 5))
[ $((n % 4)) != 0 ] || rm -f copy-*
done
"""


def file_system(volume):
    return volume.split("-")[0]


def mount_point(volume):
    return f"/m/{volume}"


class Trial:
    def __init__(self, daemon, choices):
        self.daemon = daemon
        self.choices = choices
        self.synced = {volume: {} for volume in DISKS}
        self.boots = 0

    def create(self, files):
        self.daemon.squall("image", "import", "debian", files / "debian.raw")
        path = os.path.join(self.daemon.home, "empty.raw")
        for kind, mkfs in MKFS.items():
            with open(path, "wb") as file:
                file.truncate(SIZE)
            run(*mkfs, path)
            self.daemon.squall("image", "import", f"empty-{kind}", path, "--format", "raw")
            os.unlink(path)
        for volume, options in DISKS.items():
            self.daemon.squall("volume", "create", volume, "--from",
                               f"empty-{file_system(volume)}", *options)

    @contextlib.contextmanager
    def guest(self, volumes):
        """On a fresh clone of the template, with the volumes mounted, all synced files verified."""
        self.boots += 1
        root = f"root-{self.boots}"
        self.daemon.squall("volume", "create", root, "--from", "debian", "--stateless")
        with Guest(self.daemon, [root, *volumes]) as guest:
            for number, volume in enumerate(volumes):
                device = f"/dev/vd{chr(ord('b') + number)}"
                kind, where = file_system(volume), mount_point(volume)
                guest.console.run(f"set +m; mkdir -p {where}; "
                                  f"mount -t {kind} -o {MOUNT_OPTIONS[kind]} {device} {where}")
                self.verify(guest, volume)
            yield guest

    def verify(self, guest, volume):
        files = self.synced[volume]
        if not files:
            return
        sums = "\n".join(f"{checksum}  {name}" for name, checksum in files.items())
        guest.console.upload(f"/sums-{volume}", sums)
        output = guest.console.run(
            f"cd {mount_point(volume)} && sha256sum --quiet -c /sums-{volume} && echo good; cd /")
        assert output.strip() == "good", f"{volume}: {output}"

    def write_and_die(self):
        """Guest and daemon end at a random moment after every volume has some new files."""
        with self.guest(list(DISKS)) as guest:
            guest.console.upload("/write", WRITE)
            # All in one command, whose end is not waited for: what they print mixes with all else.
            writers = [f"sh /write {mount_point(volume)} {self.boots} {volume} &" for volume in DISKS]
            guest.console.start(" ".join(writers) + " true")
            before = {volume: len(names) for volume, names in self.synced.items()}
            deadline = time.monotonic() + 240
            while min(len(self.synced[v]) - before[v] for v in DISKS) < SYNCED_MIN:
                assert time.monotonic() < deadline, "the guest hardly writes"
                time.sleep(0.2)
                self.note_synced(guest)
            time.sleep(self.choices.uniform(0, 3))
            for victim in self.choices.sample((self.daemon, guest), 2):
                victim.kill()
            self.note_synced(guest)

    def note_synced(self, guest):
        guest.console.drain()
        for match in re.finditer(r"^synced (\S+) (\S+) ([0-9a-f]{64})\r?$", guest.log(), re.M):
            volume, name, checksum = match.groups()
            self.synced[volume][name] = checksum

    def check_from_outside(self, volume, replayed):
        disk = os.path.join(self.daemon.home, "disk.raw")
        self.daemon.squall("volume", "export", volume, disk, "--force")
        if file_system(volume) == "ext4":
            if not replayed:
                run("e2fsck", "-E", "journal_only", "-y", disk)
            run("e2fsck", "-fn", disk)
        elif replayed:
            run("xfs_repair", "-n", disk)
        os.unlink(disk)


def run(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}"


def main():
    choices = random.Random(seed_from_environment())
    files = template()
    with ConfiguredDaemon({"journal": {"size": "256M"}}) as daemon:
        trial = Trial(daemon, choices)
        trial.create(files)
        for _ in range(ROUNDS):
            trial.write_and_die()
            daemon.start()
            for volume in DISKS:
                trial.check_from_outside(volume, replayed=False)
        trial.write_and_die()

        shutil.rmtree(os.path.join(daemon.home, "journal"))
        daemon.start()
        survivors = [volume for volume in DISKS if volume.endswith("-pool")]
        for volume in survivors:
            daemon.squall("volume", "takeover", volume)
            trial.check_from_outside(volume, replayed=False)
        with trial.guest(survivors) as guest:
            for volume in survivors:
                guest.console.run(f"umount {mount_point(volume)}")
            assert guest.complaints() == "", guest.complaints()
        for volume in survivors:
            trial.check_from_outside(volume, replayed=True)
        counts = ", ".join(f"{len(names)} on {volume}" for volume, names in trial.synced.items())
        print(f"{ROUNDS} kills of both and the loss of the journal; synced files: {counts}")


if __name__ == "__main__":
    main()
