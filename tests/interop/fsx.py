#!/usr/bin/python3
"""A file-system exerciser for disks: random requests and verbs against a shadow copy in memory.

In the manner of fsx, over NBD: reads, writes, zeros and trims of any alignment, with FUA, one at a
time and in flight together on several connections; flush, cache and block status; grow and shrink;
snapshot (also in the middle of writes), clone, rollback, remove; images made from volumes, imported
and exported; commits; clients that reconnect; a daemon that stops, or is killed with requests in
flight, and starts again; checks and garbage collections. Volumes of every cache mode and scope and
stateless ones live side by side. Each read is compared with the shadow, and everything in full
after each start and at the end.

    fsx.py                    one seed, printed, SQUALL_OPS operations
    SQUALL_SEED=N fsx.py      the same operations again
    SQUALL_SEEDS=N fsx.py     N seeds, the first one SQUALL_SEED or a random one

The choices depend on the seed alone, not on timing; only which unanswered requests a kill lets
through is up to the machine. SQUALL_OPS: operations per seed (2000). SQUALL_FSX_OPTIONS: a comma
separated subset of OPTIONS. SQUALL_FSX_LOG=1 prints each operation before it is done.
"""

import os
import random
import subprocess
import sys
import time

from support import binary  # makes tests/lib importable

from crash_support import SECTOR, ConfiguredDaemon, read_all
from fsx_model import Disk, WrongData, expect_equal, settle
from fsx_requests import Requests
from fsx_upkeep import Upkeep

OPS = int(os.environ.get("SQUALL_OPS", "2000"))
# Little memory, so that journal files are recycled and reads come from the pool.
SETTINGS = {"journal": {"size": "64M"}, "cache": {"size": "16M"}}
DISKS_MAX = 4
SNAPSHOTS_MAX = 4  # of one volume
IMAGES_MAX = 3

OPTIONS = {
    "writeback": ["--cache", "writeback"],
    "none": ["--cache", "none"],
    "writethrough": ["--cache", "writethrough"],
    "directsync": ["--cache", "directsync"],
    "unsafe": ["--cache", "unsafe"],
    "shared": ["--cache", "writeback", "--shared"],
    "pool": ["--durability", "pool"],
    "pool-none": ["--cache", "none", "--durability", "pool"],
    "pool-through": ["--cache", "writethrough", "--durability", "pool"],
    "stateless": ["--stateless"],
}

# How often each operation is chosen; the methods of Exerciser are named do_NAME.
WEIGHTS = {
    "write": 300, "read": 260, "zero": 60, "trim": 50, "batch": 120, "flush": 20, "cache": 5,
    "status": 20, "reopen": 12, "commit": 6, "commit_meanwhile": 4, "resize": 8, "create": 6,
    "snapshot": 8, "snapshot_meanwhile": 5, "remove_snapshot": 5, "read_snapshot": 20, "clone": 5,
    "rollback": 5, "image": 4, "import": 2, "export": 3, "read_image": 10, "remove_image": 3,
    "remove": 3, "restart": 1, "kill": 3, "kill_quiet": 2,
    "check": 3, "check_meanwhile": 3, "check_offline": 2,
    "gc": 4, "gc_meanwhile": 5, "gc_killed": 2,
}


class Exerciser(Upkeep, Requests):
    def __init__(self, daemon, seed, options):
        super().__init__(daemon, seed)
        self.options = options
        self.images = {}  # image or VOLUME@SNAP -> bytes
        self.file = os.path.join(daemon.home, "fsx.raw")
        self.counts = dict.fromkeys(WEIGHTS, 0)

    def run(self, ops):
        names, weights = list(WEIGHTS), list(WEIGHTS.values())
        for _ in range(ops):
            name = self.rng.choices(names, weights)[0]
            if not self.disks:
                name = "create"
            if getattr(self, f"do_{name}")() is not False:
                self.counts[name] += 1
        self.check_all()

    # Snapshots, clones, images.

    def read_export(self, name):
        handle = self.daemon.nbd(name)
        content = read_all(handle, handle.get_size())
        handle.shutdown()
        return content

    def add_disk(self, content, *source):
        kind = self.rng.choice(self.options)
        name = self.new_name("v")
        self.note(f"create {name} ({kind}, {len(content)} bytes) {source}", name)
        self.daemon.squall("volume", "create", name, *source, *OPTIONS[kind])
        self.disks[name] = Disk(name, content, OPTIONS[kind])

    def do_create(self):
        if len(self.disks) >= DISKS_MAX:
            return False
        size = self.pick_size()
        self.add_disk(bytes(size), "--size", size)

    def do_clone(self):
        if len(self.disks) >= DISKS_MAX or not self.images:
            return False
        source = self.rng.choice(list(self.images))
        content = self.images[source]
        larger = ()
        if self.rng.random() < 0.3:
            content += bytes(self.rng.randint(1, 4096) * SECTOR)
            larger = ("--size", len(content))
        self.add_disk(content, "--from", source, *larger)

    def do_resize(self):
        """Growing leaves clients connected, on the size they know."""
        disk = self.pick_disk()
        size = self.pick_size()
        self.note(f"resize {disk.name} {len(disk)} -> {size}", disk.name)
        if size < len(disk) or self.rng.random() < 0.5:
            disk.disconnect()
        self.daemon.squall("volume", "resize", disk.name, size)
        disk.resize(size)

    def do_commit(self):
        disk = self.pick_disk(stateful=True)
        if disk is None:
            return False
        self.note(f"commit {disk.name}")
        self.daemon.post(f"/v1/volumes/{disk.name}/commit")

    def do_snapshot(self):
        disk = self.pick_disk(stateful=True)
        if disk is None or len(disk.snapshots) >= SNAPSHOTS_MAX:
            return False
        name = self.new_name("s")
        self.note(f"snapshot {disk.name}@{name}", disk.name)
        self.daemon.squall("snapshot", "create", f"{disk.name}@{name}")
        disk.snapshots.append(name)
        self.images[f"{disk.name}@{name}"] = bytes(disk.content)

    def pick_export(self, snapshot):
        names = [name for name in self.images if ("@" in name) == snapshot]
        return self.rng.choice(names) if names else None

    def do_remove_snapshot(self):
        export = self.pick_export(snapshot=True)
        if export is None:
            return False
        self.note(f"remove {export}")
        self.daemon.squall("snapshot", "remove", export)
        volume, name = export.split("@")
        self.disks[volume].snapshots.remove(name)
        del self.images[export]

    def do_rollback(self):
        export = self.pick_export(snapshot=True)
        if export is None:
            return False
        disk = self.disks[export.split("@")[0]]
        self.note(f"rollback {export}", disk.name)
        disk.disconnect()
        self.daemon.squall("volume", "rollback", export)
        disk.content = bytearray(self.images[export])

    def do_image(self):
        sources = [d.name for d in self.disks.values() if not d.stateless]
        sources += [name for name in self.images if "@" in name]
        if not sources or self.image_count() >= IMAGES_MAX:
            return False
        source = self.rng.choice(sources)
        name = self.new_name("i")
        self.note(f"image {name} from {source}")
        self.daemon.squall("image", "create", name, "--from", source)
        self.images[name] = bytes(
            self.disks[source].content if source in self.disks else self.images[source])

    def image_count(self):
        return sum("@" not in name for name in self.images)

    def do_import(self):
        """An image that resembles a volume."""
        if self.image_count() >= IMAGES_MAX:
            return False
        content = bytearray(self.pick_disk().content)
        for _ in range(4):
            offset, length = self.pick_range(len(content))
            content[offset:offset + length] = self.rng.randbytes(length)
        name = self.new_name("i")
        self.note(f"import {name}")
        with open(self.file, "wb") as file:
            file.write(content)
        self.daemon.squall("image", "import", name, self.file, "--format", "raw")
        self.images[name] = bytes(content)

    def do_remove_image(self):
        name = self.pick_export(snapshot=False)
        if name is None:
            return False
        self.note(f"remove {name}")
        self.daemon.squall("image", "remove", name)
        del self.images[name]

    def do_remove(self):
        disk = self.pick_disk()
        self.note(f"remove {disk.name}", disk.name)
        disk.disconnect()
        self.daemon.squall("volume", "remove", disk.name)
        for snapshot in disk.snapshots:
            del self.images[f"{disk.name}@{snapshot}"]
        del self.disks[disk.name]

    def do_export(self):
        disk = self.pick_disk()
        name, content = disk.name, bytes(disk.content)
        if disk.snapshots and self.rng.random() < 0.5:
            name = f"{disk.name}@{self.rng.choice(disk.snapshots)}"
            content = self.images[name]
        self.note(f"export {name}")
        self.daemon.squall("volume", "export", name, self.file, "--force")
        with open(self.file, "rb") as file:
            expect_equal(f"the export of {name}", 0, file.read(), content)

    def read_part(self, export):
        if export is None:
            return False
        content = self.images[export]
        offset, length = self.pick_range(len(content))
        self.note(f"read {export} {offset} {length}")
        handle = self.daemon.nbd(export)
        expect_equal(export, offset, bytes(handle.pread(length, offset)),
                     content[offset:offset + length])
        handle.shutdown()

    def do_read_snapshot(self):
        return self.read_part(self.pick_export(snapshot=True))

    def do_read_image(self):
        return self.read_part(self.pick_export(snapshot=False))

    # Verbs while requests are in flight.

    def do_commit_meanwhile(self):
        disk = self.pick_disk(stateful=True)
        if disk is None:
            return False
        requests = self.pick_requests(disk, ("write", "write", "zero", "read"))
        self.note(f"commit {disk.name} with requests in flight")
        self.send(disk, requests)
        self.daemon.post(f"/v1/volumes/{disk.name}/commit")
        self.finish(disk, requests)

    def do_snapshot_meanwhile(self):
        """A snapshot holds what was acknowledged before, and of what is in flight some."""
        disk = self.pick_disk(stateful=True)
        if disk is None or len(disk.snapshots) >= SNAPSHOTS_MAX:
            return False
        before = bytes(disk.content)
        name = self.new_name("s")
        requests = self.pick_requests(disk, ("write", "write", "zero"))
        export = f"{disk.name}@{name}"
        self.note(f"snapshot {export} with requests in flight", disk.name)
        command = [binary("squall"), "snapshot", "create", export]
        verb = subprocess.Popen(command, env=self.daemon.environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL)
        self.send(disk, requests)
        self.finish(disk, requests)
        assert verb.wait(60) == 0, f"{command}: exit status {verb.returncode}"
        disk.snapshots.append(name)
        self.images[export] = bytes(settle(export, self.read_export(export), before, requests))

    # Restarts.

    def disconnect_all(self):
        for disk in self.disks.values():
            disk.disconnect()

    def do_restart(self):
        self.note("restart")
        self.disconnect_all()
        self.daemon.restart()
        self.check_all()

    def do_kill_quiet(self):
        self.note("kill")
        self.daemon.kill()
        self.after_kill([])

    def do_kill(self):
        """With requests in flight to every volume, some of them answered."""
        sent = []
        for disk in self.disks.values():
            requests = self.pick_requests(disk, ("write", "write", "zero"))
            self.send(disk, requests)
            sent.append((disk, requests))
        wait_for = self.rng.randint(0, sum(len(requests) for _, requests in sent))
        everything = [request for _, requests in sent for request in requests]
        self.note(f"kill after {wait_for} of {len(everything)} answers")
        self.drive(everything, lambda: sum(r.error is not None for r in everything) >= wait_for)
        self.daemon.process.kill()
        self.drive(everything, lambda: all(r.error is not None for r in everything))
        self.daemon.kill()
        self.after_kill(sent)

    def after_kill(self, sent):
        for disk in self.disks.values():
            disk.drop()
        self.daemon.start()
        for disk, requests in sent:
            for request in requests:
                if request.error == 0:
                    disk.put(request.offset, request.data)
            unknown = [request for request in requests if request.error != 0]
            disk.content = settle(disk.name, self.read_export(disk.name), disk.content, unknown)
            for request in requests:
                request.handle = None  # which would keep it for want of an answer
        self.check_all()

    def check_all(self):
        """The catalog, and every byte of all that exists."""
        listed = {row["name"] for row in self.daemon.json("image", "list")}
        for row in self.daemon.json("volume", "list"):
            listed.add(row["name"])
            if row["snapshots"]:
                listed |= {f"{row['name']}@{snapshot['name']}"
                           for snapshot in self.daemon.json("snapshot", "list", row["name"])}
        expected = set(self.disks) | set(self.images)
        assert listed == expected, f"missing or too many: {listed ^ expected}"
        for name in sorted(expected):
            content = self.disks[name].content if name in self.disks else self.images[name]
            expect_equal(name, 0, self.read_export(name), bytes(content))

    # Failures.

    def tell(self, error):
        """The last operations, and those before that touched the wrong place."""
        lines = []
        if isinstance(error, WrongData):
            lines = [entry for entry in self.history if entry[2] == error.name and
                     entry[3] <= error.last and error.first < entry[4]]
        for number, text, *_ in lines[-30:] + self.history[-15:]:
            print(f"  {number:6} {text}", file=sys.stderr)


def exercise(seed, ops=OPS):
    """One daemon, `ops` operations."""
    names = os.environ.get("SQUALL_FSX_OPTIONS", ",".join(OPTIONS)).split(",")
    begin = time.monotonic()
    print(f"seed {seed} (SQUALL_SEED={seed} SQUALL_OPS={ops} does the same again)", flush=True)
    with ConfiguredDaemon(SETTINGS) as daemon:
        exerciser = Exerciser(daemon, seed, names)
        try:
            exerciser.run(ops)
        except BaseException as error:
            exerciser.tell(error)
            raise
        exerciser.disconnect_all()
    done = ", ".join(f"{count} {name}" for name, count in exerciser.counts.items() if count)
    print(f"{ops} operations in {time.monotonic() - begin:.1f} s: {done}", flush=True)


def main():
    first = int(os.environ.get("SQUALL_SEED", random.randrange(1 << 32)))
    for seed in range(first, first + int(os.environ.get("SQUALL_SEEDS", "1"))):
        exercise(seed)


if __name__ == "__main__":
    main()
