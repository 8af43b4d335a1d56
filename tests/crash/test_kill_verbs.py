#!/usr/bin/python3
"""A verb that a kill interrupts has happened or has not, and what it left is right.

Several lanes, each with volumes of its own, run verbs one after the other (write, snapshot, clone,
rollback, resize, remove, image create, image import) while the daemon is killed at random moments.
After each start the catalog must be one of the two states around the interrupted verb, and the
content of all that exists must be exactly what its history says.

SQUALL_ROUNDS: rounds (20). SQUALL_SEED: repeats the choices of a run.
"""

import os
import random
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))

import nbd
from crash_support import (
    SECTOR,
    CommandFailed,
    ConfiguredDaemon,
    read_all,
    seed_from_environment,
    stamp,
)

ROUNDS = int(os.environ.get("SQUALL_ROUNDS", "20"))
LANES = ([], ["--cache", "none"], ["--durability", "pool"], ["--cache", "writethrough"])
STATELESS_LANES = (["--stateless"],)
MIB = 1 << 20


class Interrupted(Exception):
    """The daemon died while the verb was under way."""


class Lane:
    """The exports of one lane and their contents, as they must be.

    `exports`: name -> bytes. While a verb runs, `maybe` holds what else the catalog may say after a
    kill: name -> the bytes it may have instead, or None where it may be gone.
    """

    def __init__(self, number, daemon, options, choices):

        self.daemon = daemon
        self.options = options
        self.choices = random.Random(choices.random())
        self.prefix = f"l{number}"
        self.stateless = "--stateless" in options
        self.exports = {}
        self.maybe = {}
        self.failure = None
        self.count = 0
        self.version = 0
        self.source = os.path.join(daemon.home, f"{self.prefix}.raw")

    # One round: verbs until the daemon dies.

    def run_round(self):
        self.thread = threading.Thread(target=self.loop)
        self.thread.start()

    def loop(self):
        try:
            while True:
                self.step()
        except Interrupted:
            pass
        except BaseException as error:  # reported by the main thread
            self.failure = error

    def step(self):
        volumes = [n for n in self.exports if n.startswith(self.prefix + "-v") and "@" not in n]
        snapshots = [n for n in self.exports if "@" in n]
        if len(volumes) < 2:
            return self.create()
        volume = self.choices.choice(volumes)
        if self.stateless:
            verbs = [self.write, self.write, self.resize, self.remove]
            return self.choices.choice(verbs)(volume)
        verbs = [self.write] * 3 + [self.snapshot, self.resize, self.remove, self.image]
        if snapshots:
            verbs += [self.rollback, self.clone, self.remove_snapshot]
        verb = self.choices.choice(verbs + [self.import_image])
        if verb in (self.rollback, self.clone, self.remove_snapshot):
            volume = self.choices.choice(snapshots)
        verb(volume)

    def new_name(self, kind):
        self.count += 1
        return f"{self.prefix}-{kind}{self.count}"

    def run_verb(self, maybe, *arguments):
        """Runs it; when the daemon dies meanwhile, `maybe` may have happened."""
        self.maybe = maybe
        try:
            self.daemon.squall(*arguments, timeout_s=60)
        except CommandFailed as error:
            try:
                self.daemon.process.wait(5)
            except subprocess.TimeoutExpired:
                raise error from None
            raise Interrupted from error
        except subprocess.TimeoutExpired:
            raise AssertionError(f"squall {arguments} hangs")
        for name, content in maybe.items():
            if content is None:
                del self.exports[name]
            else:
                self.exports[name] = content
        self.maybe = {}

    def create(self):
        name = self.new_name("v")
        size = self.choices.randint(1, 8192) * SECTOR
        self.run_verb({name: bytes(size)}, "volume", "create", name, "--size", size, *self.options)

    def write(self, volume):
        """A few acknowledged writes, not flushed; each one maybe done when the daemon dies."""
        try:
            handle = self.daemon.nbd(volume)
            self.write_through(handle, volume)
            handle.shutdown()
        except nbd.Error as error:
            raise Interrupted from error

    def write_through(self, handle, volume):
        for _ in range(self.choices.randint(1, 12)):
            content = self.exports[volume]
            sectors = len(content) // SECTOR
            first = self.choices.randrange(sectors)
            count = min(self.choices.choice([1, 8, 33, 300]), sectors - first)
            zero = self.choices.random() < 0.2
            self.version += 1
            data = stamp(0 if zero else self.version, first, count)
            offset = first * SECTOR
            after = content[:offset] + data + content[offset + len(data) :]
            self.maybe = {volume: after}
            if zero:
                handle.zero(len(data), offset)
            else:
                handle.pwrite(data, offset)
            self.exports[volume] = after
            self.maybe = {}

    def snapshot(self, volume):
        name = f"{volume}@{self.new_name('s')}"
        self.run_verb({name: self.exports[volume]}, "snapshot", "create", name)

    def remove_snapshot(self, snapshot):
        self.run_verb({snapshot: None}, "snapshot", "remove", snapshot)

    def clone(self, snapshot):
        name = self.new_name("v")
        content = self.exports[snapshot]
        self.run_verb({name: content}, "volume", "create", name, "--from", snapshot, *self.options)

    def rollback(self, snapshot):
        volume = snapshot.split("@")[0]
        self.run_verb({volume: self.exports[snapshot]}, "volume", "rollback", snapshot)

    def resize(self, volume):
        content = self.exports[volume]
        size = self.choices.randint(1, 8192) * SECTOR
        after = content[:size] + bytes(max(0, size - len(content)))
        self.run_verb({volume: after}, "volume", "resize", volume, size)

    def remove(self, volume):
        gone = {n: None for n in self.exports if n == volume or n.startswith(volume + "@")}
        self.run_verb(gone, "volume", "remove", volume)
        # The name is free, and nothing of the old volume may come back under it.
        content = bytes(self.choices.randint(1, 8192) * SECTOR)
        create = ("volume", "create", volume, "--size", len(content), *self.options)
        self.run_verb({volume: content}, *create)

    def image(self, volume):
        name = self.new_name("i")
        self.run_verb({name: self.exports[volume]}, "image", "create", name, "--from", volume)

    def import_image(self, _volume):
        name = self.new_name("i")
        sectors = self.choices.randint(1, 4096)
        self.version += 1
        content = stamp(self.version, 0, sectors)
        with open(self.source, "wb") as file:
            file.write(content)
        self.run_verb({name: content}, "image", "import", name, self.source)

    # After a restart.

    def check(self, listed):
        """The catalog and every content; what the interrupted verb did is settled now."""
        mine = {name for name in listed if name.startswith(self.prefix + "-")}
        for name, content in self.maybe.items():
            if content is None and name not in mine:
                self.exports.pop(name)
            elif content is not None and name not in self.exports and name in mine:
                self.exports[name] = content
        assert mine == set(self.exports), (
            f"missing: {set(self.exports) - mine}, too many: {mine - set(self.exports)}, "
            f"interrupted: {list(self.maybe)}"
        )
        gone = [name for name, content in self.maybe.items() if content is None]
        kept = [name for name in gone if name in mine]
        assert not kept or kept == gone, f"removed in part: {kept} of {gone} are left"
        for name in sorted(mine):
            handle = self.daemon.nbd(name)
            content = read_all(handle, handle.get_size())
            handle.shutdown()
            if content != self.exports[name]:
                assert self.is_possible(name, content), self.difference(name, content)
                self.exports[name] = content
        self.maybe = {}

    def is_possible(self, name, content):
        """The interrupted verb has happened; without a journal a write that nobody had an answer
        for may have happened in part."""
        after = self.maybe.get(name)
        if content == after or not self.stateless:
            return content == after
        before = self.exports[name]
        return len(content) == len(before) == len(after or b"") and all(
            content[at : at + SECTOR] in (before[at : at + SECTOR], after[at : at + SECTOR])
            for at in range(0, len(content), SECTOR)
        )

    def difference(self, name, content):
        expected = self.exports[name]
        other = self.maybe.get(name)
        size = min(len(content), len(expected))
        sectors = [
            at // SECTOR
            for at in range(0, size, SECTOR)
            if content[at : at + SECTOR] != expected[at : at + SECTOR]
        ]
        return (
            f"{name}: {len(content)} bytes, expected {len(expected)}"
            f"{f' or {len(other)}' if other is not None else ''}; "
            f"{len(sectors)} sectors differ, from {sectors[:3]}"
        )

    def thin_out(self):
        """Keeps the checks short: images are removed again, and volumes beyond a few."""
        for name in [n for n in self.exports if n.startswith(self.prefix + "-i")]:
            self.daemon.squall("image", "remove", name)
            del self.exports[name]
        volumes = [n for n in self.exports if "@" not in n]
        for volume in volumes[4:]:
            self.daemon.squall("volume", "remove", volume)
            for name in [n for n in self.exports if n == volume or n.startswith(volume + "@")]:
                del self.exports[name]


def listed_exports(daemon):
    names = [row["name"] for row in daemon.json("image", "list")]
    for row in daemon.json("volume", "list"):
        names.append(row["name"])
        if row["snapshots"] > 0:
            names += [f"{row['name']}@{s['name']}" for s in daemon.json("snapshot", "list", row["name"])]
    return names


def main():
    choices = random.Random(seed_from_environment())
    with ConfiguredDaemon({"journal": {"size": "64M"}}) as daemon:
        lanes = [
            Lane(number, daemon, options, choices)
            for number, options in enumerate(LANES + STATELESS_LANES)
        ]
        for _ in range(ROUNDS):
            for lane in lanes:
                lane.run_round()
            time.sleep(choices.uniform(0.05, 1.0))
            daemon.process.kill()
            for lane in lanes:
                lane.thread.join()
                if lane.failure is not None:
                    raise lane.failure
            daemon.kill()
            daemon.start()
            listed = listed_exports(daemon)
            for lane in lanes:
                lane.check(listed)
                lane.thin_out()
        daemon.squall("check", "--rate", "0")
        print(f"{ROUNDS} kills, {sum(lane.count for lane in lanes)} things created")


if __name__ == "__main__":
    main()
