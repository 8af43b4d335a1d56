#!/usr/bin/python3
"""Snapshot, clone, rollback, resize and remove through the command line, with every byte checked
over NBD against a model, and again after the daemon was killed and started.
"""
import errno
import os
import random

import nbd

from support import MIB, Daemon, compare, fails, run_checks

SIZE = 8 * MIB


class Disks:
    """The daemon's exports and what each must hold."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.content = {}
        self.rng = random.Random(11)

    def write(self, name, count=20):
        """Random writes, zeros and trims of any alignment."""
        model = bytearray(self.content[name])
        handle = self.daemon.nbd(name)
        for _ in range(count):
            length = self.rng.choice((1, 512, 4096, 10_000, 300_000))
            offset = self.rng.randrange(len(model) - length)
            kind = self.rng.choice(("write", "write", "write", "zero", "trim"))
            data = self.rng.randbytes(length) if kind == "write" else bytes(length)
            if kind == "write":
                handle.pwrite(data, offset)
            elif kind == "zero":
                handle.zero(length, offset)
            else:
                handle.trim(length, offset)
                data = handle.pread(length, offset)
            model[offset:offset + length] = data
        handle.flush()
        handle.shutdown()
        self.content[name] = bytes(model)

    def create(self, name, source=None, *options):
        if source is None:
            self.daemon.squall("volume", "create", name, "--size", SIZE, *options)
            self.content[name] = bytes(SIZE)
        else:
            self.daemon.squall("volume", "create", name, "--from", source, *options)
            self.content[name] = self.content[source]

    def snapshot(self, name, snapshot):
        self.daemon.squall("snapshot", "create", f"{name}@{snapshot}")
        self.content[f"{name}@{snapshot}"] = self.content[name]

    def image(self, name, source):
        self.daemon.squall("image", "create", name, "--from", source)
        self.content[name] = self.content[source]

    def check(self, *names):
        for name in names or self.content:
            handle = self.daemon.nbd(name)
            assert handle.get_size() == len(self.content[name]), name
            assert handle.pread(handle.get_size(), 0) == self.content[name], f"{name} differs"
            handle.shutdown()

    def gone(self, *names):
        for name in names:
            self.content.pop(name, None)
            try:
                self.daemon.nbd(name)
                raise AssertionError(f"{name} is still exported")
            except nbd.Error as error:
                assert error.errnum == errno.ENOENT, error


def check_lineage(daemon):
    """A clone of a snapshot of a clone of a snapshot of a volume, each level written to; then each
    ancestor removed while its descendants live."""
    disks = Disks(daemon)
    disks.create("a")
    disks.write("a")
    disks.snapshot("a", "s1")
    disks.create("b", "a@s1")
    disks.write("a")
    disks.write("b")
    disks.snapshot("b", "s1")
    disks.create("c", "b@s1")
    disks.create("c-stateless", "b@s1", "--stateless")
    disks.write("b")
    disks.write("c")
    disks.write("c-stateless")
    disks.snapshot("c", "s")
    disks.image("from-snapshot", "c@s")
    disks.write("c")
    disks.image("from-volume", "c")
    disks.create("d", "from-volume")
    disks.write("d")
    assert daemon.json("volume", "show", "c")["parent"] == "b@s1"
    disks.check()
    daemon.restart(crash=True)
    disks.check()
    for verb in (("snapshot", "remove", "a@s1"), ("volume", "remove", "a"),
                 ("snapshot", "remove", "b@s1"), ("volume", "remove", "b"),
                 ("image", "remove", "from-volume")):
        daemon.squall(*verb)
        disks.gone(verb[-1])
        disks.check()
    disks.gone("a", "b")
    disks.write("c")
    disks.write("d")
    daemon.restart(crash=True)
    disks.check()
    daemon.squall("volume", "remove", "c", "c-stateless", "d")
    disks.gone("c", "c@s", "c-stateless", "d")
    disks.check()


def check_image_with_clones(daemon):
    """An image is removed while clones of it live and are written to; the same name means another
    image afterwards."""
    disks = Disks(daemon)
    disks.create("v")
    disks.write("v", 60)
    disks.image("template", "v")
    daemon.squall("volume", "create", "clone", "--from", "template", "--count", 20)
    for i in range(1, 21):
        disks.content[f"clone-{i}"] = disks.content["template"]
        if i % 4 == 0:
            disks.write(f"clone-{i}", 5)
    reader = daemon.nbd("template")
    daemon.squall("image", "remove", "template")
    del reader
    disks.gone("template")
    disks.write("v")
    disks.image("template", "v")
    disks.create("clone-of-new", "template")
    disks.check()
    daemon.restart()
    disks.check()
    daemon.squall("volume", "remove", *[f"clone-{i}" for i in range(1, 21)], "clone-of-new", "v")
    daemon.squall("image", "remove", "template")


def check_rollback(daemon):
    disks = Disks(daemon)
    disks.create("r")
    disks.write("r")
    disks.snapshot("r", "one")
    disks.write("r")
    disks.snapshot("r", "two")
    disks.write("r")
    for target in ("one", "two", "one"):
        daemon.squall("volume", "rollback", f"r@{target}")
        disks.content["r"] = disks.content[f"r@{target}"]
        disks.check()
        daemon.restart(crash=True)  # what was thrown away does not come back from the journal
        disks.check()
        disks.write("r")
    handle = daemon.nbd("r")
    handle.pwrite(b"open", 0)
    fails(daemon, "volume", "rollback", "r@one", says=["in use"])
    handle.shutdown()
    disks.content["r"] = b"open" + disks.content["r"][4:]
    fails(daemon, "volume", "rollback", "r@none", says=["r@none"])
    disks.check()
    names = [snapshot["name"] for snapshot in daemon.json("snapshot", "list", "r")]
    assert sorted(names) == ["one", "two"]
    daemon.squall("volume", "remove", "r")
    disks.gone("r", "r@one", "r@two")


def check_resize(daemon):
    """What was cut off is zeros when the volume grows again; snapshots keep their size."""
    disks = Disks(daemon)
    disks.create("z")
    handle = daemon.nbd("z")
    handle.pwrite(b"\xee" * SIZE, 0)
    handle.shutdown()
    disks.content["z"] = b"\xee" * SIZE
    disks.snapshot("z", "full")
    sizes = (SIZE // 2 + 512, SIZE * 2, SIZE // 4 + 3 * 512, SIZE + 4096)
    for number, size in enumerate(sizes):
        daemon.squall("volume", "resize", "z", size)
        old = disks.content["z"]
        disks.content["z"] = old[:size] + bytes(max(0, size - len(old)))
        assert daemon.json("volume", "show", "z")["size_bytes"] == size
        disks.check("z", "z@full")
        if number % 2:
            daemon.restart(crash=True)
            disks.check("z", "z@full")
        disks.write("z", 5)
    fails(daemon, "volume", "resize", "z", "1000", says=["1000"])
    fails(daemon, "volume", "resize", "z", "0")
    daemon.squall("volume", "rollback", "z@full")
    disks.content["z"] = disks.content["z@full"]
    disks.check()
    disks.create("larger", "z@full", "--size", SIZE * 2)
    disks.content["larger"] += bytes(SIZE)
    disks.check("larger")
    fails(daemon, "volume", "create", "smaller", "--from", "z@full", "--size", "1M")
    daemon.squall("volume", "remove", "z", "larger")
    disks.gone("z", "z@full", "larger")


def check_grow_while_connected(daemon):
    """The connected client goes on; whoever connects later sees the new size. Shrinking waits for
    the client."""
    for name, options in (("g", ()), ("g-stateless", ("--stateless",))):
        daemon.squall("volume", "create", name, "--size", SIZE, *options)
        handle = daemon.nbd(name)
        handle.pwrite(b"before", SIZE - 6)
        daemon.squall("volume", "resize", name, SIZE * 2)
        handle.pwrite(b"after", 0)
        assert handle.pread(6, SIZE - 6) == b"before"
        later = daemon.nbd(name)
        assert later.get_size() == SIZE * 2
        later.pwrite(b"beyond", SIZE + 100)
        assert later.pread(6, SIZE - 6) == b"before" and later.pread(5, 0) == b"after"
        fails(daemon, "volume", "resize", name, SIZE, says=["in use"])
        handle.shutdown()
        later.shutdown()
        daemon.restart(crash=True)
        again = daemon.nbd(name)
        assert again.pread(6, SIZE + 100) == b"beyond" and again.pread(6, SIZE - 6) == b"before"
        again.shutdown()
        daemon.squall("volume", "remove", name)


def check_same_name(daemon):
    """A volume removed and created again under its name has nothing of the old one, not after a
    crash either."""
    for options in ((), ("--stateless",), ("--durability", "pool")):
        for _ in range(2):
            daemon.squall("volume", "create", "again", "--size", SIZE, *options)
            handle = daemon.nbd("again")
            assert handle.pread(SIZE, 0) == bytes(SIZE)
            handle.pwrite(os.urandom(MIB), 4096)
            handle.flush()
            handle.shutdown()
            daemon.squall("volume", "remove", "again")
        daemon.squall("volume", "create", "again", "--size", SIZE, *options)
        daemon.restart(crash=True)
        handle = daemon.nbd("again")
        assert handle.pread(SIZE, 0) == bytes(SIZE)
        handle.shutdown()
        daemon.squall("volume", "remove", "again")


def check_export(daemon):
    """A volume and a snapshot as files."""
    disks = Disks(daemon)
    disks.create("e")
    disks.write("e")
    disks.snapshot("e", "s")
    disks.write("e")
    for name in ("e", "e@s"):
        for suffix in ("raw", "qcow2"):
            path = os.path.join(daemon.home, f"out.{suffix}")
            daemon.squall("volume", "export", name, path, "--force")
            compare(path, daemon.uri(name), a_format=suffix)
    with open(os.path.join(daemon.home, "out.raw"), "rb") as file:
        assert file.read() == disks.content["e@s"]


def main():
    with Daemon() as daemon:
        run_checks(check_lineage, check_image_with_clones, check_rollback, check_resize,
                   check_grow_while_connected, check_same_name, check_export, arguments=(daemon,))


if __name__ == "__main__":
    main()
