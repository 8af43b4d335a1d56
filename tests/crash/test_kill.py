#!/usr/bin/python3
"""A daemon that is killed loses no acknowledged write, in any cache mode.

Volumes of every cache mode and scope, and a stateless one, are written at once with requests in
flight on each; fio writes others. The daemon is killed with SIGKILL at a random moment: of the
writing, of a commit, an import, a snapshot, a garbage collection, an orderly stop, and of the
starts that follow. Then every sector must hold its last acknowledged write, or one that was sent
and never answered; fio verifies all that it had an answer for; the interrupted import or snapshot
is there, whole and right, or not at all; and `squall check` finds the pool in order. The journal is
as small as it can be, so that it wraps and commits run meanwhile.

SQUALL_ROUNDS: rounds (16). SQUALL_SEED: repeats the choices of a run.
"""

import collections
import http.client
import os
import random
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))

from crash_support import ConfiguredDaemon, StampedVolume, read_all, seed_from_environment
from fio_under_kill import MIB, SIZE_MIB, Fio
from squall_daemon import binary
from stamped_writer import SnapshotWatch, Writer, write_until_killed

ROUNDS = int(os.environ.get("SQUALL_ROUNDS", "16"))
VOLUME_BYTES = 8 << 20
IMPORT_BYTES = 48 << 20
FIO_CHANCE = 0.3

VOLUMES = {
    "writeback": ["--cache", "writeback"],
    "none": ["--cache", "none"],
    "writethrough": ["--cache", "writethrough"],
    "directsync": ["--cache", "directsync"],
    "unsafe": ["--cache", "unsafe"],
    "pool": ["--cache", "writeback", "--durability", "pool"],
    "pool-through": ["--cache", "writethrough", "--durability", "pool"],
    "stateless": ["--stateless"],
}
FIO_VOLUMES = {
    "fio-writeback": [],
    "fio-none": ["--cache", "none"],
    "fio-unsafe": ["--cache", "unsafe"],
    "fio-pool": ["--durability", "pool"],
    "fio-stateless": ["--stateless"],
}


class Campaign:
    def __init__(self, daemon, choices):
        self.daemon = daemon
        self.choices = choices
        self.volumes = [StampedVolume(name, VOLUME_BYTES) for name in VOLUMES]
        self.moments = (self.plain, self.commit, self.snapshot, self.importing,
                        self.collecting, self.stopping)
        self.done = collections.Counter()
        self.slowest_start_s = 0

    def create(self):
        for name, options in VOLUMES.items():
            self.daemon.squall("volume", "create", name, "--size", VOLUME_BYTES, *options)
        for name, options in FIO_VOLUMES.items():
            self.daemon.squall("volume", "create", name, "--size", f"{SIZE_MIB}M", *options)
        self.source = os.path.join(self.daemon.home, "import.raw")
        with open(self.source, "wb") as file:
            file.write(self.choices.randbytes(IMPORT_BYTES))

    def run_round(self, number):
        """Writes, a kill at some moment, starts that are killed, a start, all checks."""
        self.writers = [Writer(self.daemon, volume, self.choices) for volume in self.volumes]
        moment = self.choices.choice(self.moments)
        self.done[moment.__name__] += 1
        fio = None
        if moment != self.stopping and self.choices.random() < FIO_CHANCE:
            fio = Fio(self.daemon, self.choices.choice(list(FIO_VOLUMES)), number)
            fio.start()
        self.kill_at = time.monotonic() + self.choices.uniform(0.02, 0.8)
        check = moment()
        status = self.daemon.process.wait(30)
        assert status in (-signal.SIGKILL, 0), f"squalld ended with {status}: {self.daemon.log()}"
        self.daemon.kill()
        for writer in self.writers:
            writer.handle = None  # requests without an answer would keep it, and it them
        if fio:
            fio.finish()
        self.restart()
        for volume in self.volumes:
            volume.check(self.content(volume.name))
        if fio:
            self.done["fio writes"] += fio.verify()
            self.done["fio"] += 1
        if check is not None:
            check()

    def content(self, export):
        handle = self.daemon.nbd(export)
        content = read_all(handle, handle.get_size())
        handle.shutdown()
        return content

    def restart(self):
        while self.choices.random() < 0.4:
            self.daemon.start_and_kill(self.choices.uniform(0, 1.2 * self.slowest_start_s + 0.01))
            self.done["start"] += 1
        self.daemon.start()
        self.slowest_start_s = max(self.slowest_start_s, self.daemon.start_up_s)

    def write(self, tick=lambda: None):
        """Until the kill, which happens when it is time."""
        timer = threading.Timer(max(0, self.kill_at - time.monotonic()), self.daemon.process.kill)
        timer.start()
        try:
            write_until_killed(self.writers, tick)
        finally:
            timer.join()

    # The moments. Each writes until the daemon is gone; what it returns is called after the start.

    def plain(self):
        self.write()

    def commit(self):
        """Volumes are being committed, one after the other, all the time."""

        def commit_on():
            try:
                for name in names * 1000:
                    self.daemon.post(f"/v1/volumes/{name}/commit")
            except (OSError, http.client.HTTPException):
                pass  # the kill

        names = [name for name in VOLUMES if name != "stateless"]
        self.choices.shuffle(names)
        committer = threading.Thread(target=commit_on)
        committer.start()
        self.write()
        committer.join()

    def snapshot(self):
        """A snapshot of a volume under writes; it is made shortly before the kill, if not then."""
        writer = self.choices.choice([w for w in self.writers if w.volume.name != "stateless"])
        export = f"{writer.volume.name}@s"
        begin_at = self.kill_at - self.choices.uniform(0, 0.06)
        verb = watch = None

        def tick():
            nonlocal verb, watch
            if verb is None and time.monotonic() >= begin_at:
                watch = SnapshotWatch(writer)
                verb = self.start_verb("snapshot", "create", export)
            elif watch is not None and watch.is_open and verb.poll() is not None:
                watch.close()

        def check():
            if verb is None:
                return
            succeeded = verb.wait(30) == 0
            listed = self.daemon.json("snapshot", "list", writer.volume.name)
            assert listed or not succeeded, f"{export} is lost"
            if listed:
                self.done["snapshots kept"] += 1
                watch.check(self.content(export))
                self.daemon.squall("snapshot", "remove", export)

        self.write(tick)
        return check

    def importing(self):
        verb = self.start_verb("image", "import", "imported", self.source, "--format", "raw")

        def check():
            succeeded = verb.wait(30) == 0
            listed = self.daemon.json("image", "list")
            assert listed or not succeeded, "an imported image is lost"
            if listed:
                self.done["imports kept"] += 1
                with open(self.source, "rb") as file:
                    assert self.content("imported") == file.read(), "the imported image is wrong"
                self.daemon.squall("image", "remove", "imported")

        self.write()
        return check

    def collecting(self):
        """Garbage of all the rounds before is being collected."""
        verb = self.start_verb("gc")
        self.write()
        verb.wait(30)

    def stopping(self):
        """It was told to stop and has begun to."""
        pid = self.daemon.process.pid
        stop = threading.Timer(
            max(0, self.kill_at - time.monotonic() - self.choices.uniform(0, 0.2)),
            lambda: os.kill(pid, signal.SIGTERM),
        )
        stop.start()
        self.write()
        stop.join()

    def start_verb(self, *arguments):
        return subprocess.Popen(
            [binary("squall"), "--quiet", *arguments],
            env=self.daemon.environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def main():
    choices = random.Random(seed_from_environment())
    with ConfiguredDaemon({"journal": {"size": "64M"}}) as daemon:
        campaign = Campaign(daemon, choices)
        campaign.create()
        for number in range(ROUNDS):
            campaign.run_round(number)
            if number % 10 == 9 or number == ROUNDS - 1:
                daemon.squall("check", "--rate", "0")
        print(", ".join(f"{v.name}: {v.writes_acknowledged}" for v in campaign.volumes), "writes")
        print(", ".join(f"{count} {what}" for what, count in campaign.done.items()))
        print(
            f"{ROUNDS} rounds; slowest start {campaign.slowest_start_s:.2f} s; the pool holds "
            f"{daemon.json('status')['pool_bytes'] // MIB} MiB"
        )


if __name__ == "__main__":
    main()
