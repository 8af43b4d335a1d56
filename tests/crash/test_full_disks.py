#!/usr/bin/python3
"""Disks without a free byte: writes get ENOSPC, reads and flushed data stay right, removals and
starts go through, and service resumes by itself when space comes back.

Disks are filled by Squall itself and by somebody else, at rest and in the middle of commits; all of
Squall on one such disk, and a second store of its own; stores that go away and come back, while
the daemon runs and before it starts. Needs root (tmpfs of a few MiB).

SQUALL_ROUNDS: how often somebody else fills and frees the disk under load (4).
"""

import errno
import os
import random
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))

import nbd
from crash_support import CommandFailed, ConfiguredDaemon, is_root, seed_from_environment
from small_disk import FileDisk, SmallDisk

MIB = 1 << 20
ROUNDS = int(os.environ.get("SQUALL_ROUNDS", "4"))
JOURNAL = {"journal": {"size": "64M"}}
FULL, AWAY = errno.ENOSPC, errno.EIO


class Content:
    """A volume and what it must hold, by offset of MiB pieces. A write that is refused may have
    landed in part, so that piece is not looked at."""

    def __init__(self, daemon, name, choices):
        self.daemon = daemon
        self.name = name
        self.choices = choices
        self.pieces = {}

    def write(self, handle, at, expected_errors=()):
        data = self.choices.randbytes(MIB)
        try:
            handle.pwrite(data, at)
        except nbd.Error as error:
            assert error.errnum in expected_errors, (self.name, error)
            self.pieces.pop(at, None)
            return False
        self.pieces[at] = data
        return True

    def fill(self, handle, pieces):
        """Writes until the pool is full; how many pieces went in."""
        for number in range(pieces):
            if not self.write(handle, number * MIB, {FULL}):
                return number
        raise AssertionError(f"{self.name}: {pieces} MiB fit into a disk that is smaller")

    def check(self, name=None):
        handle = self.daemon.nbd(name or self.name)
        for at, data in self.pieces.items():
            assert bytes(handle.pread(MIB, at)) == data, f"{self.name}: wrong data at {at}"
        handle.shutdown()


def soon(action, seconds=10):
    """Repeats until it is true: room is looked at twice a second, space every two."""
    deadline = time.monotonic() + seconds
    while not (result := action()):
        assert time.monotonic() < deadline, "it does not come back by itself"
        time.sleep(0.1)
    return result


def refused(daemon, *arguments):
    """The one line with which a command fails."""
    result = daemon.squall(*arguments, check=False)
    assert result.returncode == 1, (arguments, result)
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def store(daemon, name="default"):
    return next(s for s in daemon.json("status")["stores"] if s["name"] == name)


def everything_on_one_disk(choices):
    """Pool, catalog, journal, scratch and sockets on one disk, filled by Squall, then by somebody
    else to the last byte; kills and starts while it is full."""
    with SmallDisk(300) as disk:
        os.environ["SQUALL_TEST_DIR"] = disk.path
        try:
            daemon = ConfiguredDaemon(JOURNAL)
        finally:
            del os.environ["SQUALL_TEST_DIR"]
        daemon.log_path = disk.path + ".log"
        with daemon:
            daemon.squall("volume", "create", "v", "--size", "1G", "--count", "4")
            kept = Content(daemon, "v-1", choices)
            handle = daemon.nbd("v-1")
            for number in range(10):
                kept.write(handle, number * MIB)
            daemon.squall("snapshot", "create", "v-1@s")
            snapshot = dict(kept.pieces)
            count = kept.fill(handle, 300)
            handle.flush()
            handle.shutdown()
            assert "snapshot" not in refused(daemon, "volume", "show", "nonesuch")
            disk.fill()
            assert disk.free_bytes() < 64 * 1024, disk.free_bytes()
            for life in range(4):
                if life > 0:
                    daemon.restart(crash=life != 2)
                kept.check()
                assert store(daemon)["level"] == "full", store(daemon)
                handle = daemon.nbd("v-1")
                assert not kept.write(handle, 290 * MIB, {FULL})
                handle.flush()
                handle.shutdown()
                assert "full" in refused(daemon, "volume", "create", f"w{life}", "--size", "1G")
                if life > 0:
                    daemon.squall("volume", "remove", f"v-{life + 1}")
            assert [v["name"] for v in daemon.json("volume", "list")] == ["v-1"]
            disk.free()
            disk.grow(600)
            handle = daemon.nbd("v-1")
            soon(lambda: kept.write(handle, 300 * MIB, {FULL}))
            handle.flush()
            handle.shutdown()
            daemon.squall("snapshot", "create", "v-1@t")
            kept.check("v-1@t")
            soon(lambda: store(daemon)["level"] != "full")
            kept.pieces = snapshot
            kept.check("v-1@s")
            daemon.squall("volume", "remove", "v-1")
    os.unlink(disk.path + ".log")
    print(f"everything on one disk: {count} MiB went in", flush=True)


def filled_under_load(choices):
    """Somebody else takes the space in the middle of commits and gives it back."""
    with SmallDisk(400) as disk:
        with ConfiguredDaemon(JOURNAL, init_args=["--pool", f"file:{disk.path}/pool"]) as daemon:
            names = ("a", "b", "c")
            for name in names:
                daemon.squall("volume", "create", name, "--size", "256M")
            contents = {name: Content(daemon, name, random.Random(choices.random())) for name in names}
            stop = threading.Event()
            failures = []
            counts = {"written": 0, "refused": 0, "snapshots": 0}

            def write(content):
                try:
                    handle = daemon.nbd(content.name)
                    while not stop.is_set():
                        # Few places, so that the pool does not fill up with what was overwritten
                        # before somebody collects it.
                        at = content.choices.randrange(8) * MIB
                        done = content.write(handle, at, {FULL})
                        counts["written" if done else "refused"] += 1
                        time.sleep(0.02)
                    handle.shutdown()
                except BaseException as error:
                    failures.append(error)

            threads = [threading.Thread(target=write, args=(c,)) for c in contents.values()]
            for thread in threads:
                thread.start()
            for number in range(ROUNDS):
                disk.fill(leave_bytes=choices.choice([0, 0, 4096, MIB]))
                for name in names:
                    result = daemon.squall("snapshot", "create", f"{name}@{number}", check=False)
                    assert result.returncode == 0 or "no space" in result.stderr.lower(), result.stderr
                    counts["snapshots"] += result.returncode == 0
                time.sleep(0.7)
                disk.free()
                if number % 2 == 1:
                    disk.grow(400 + 60 * number)
                time.sleep(0.7)
                for name in names:
                    result = daemon.squall("snapshot", "create", f"{name}@free-{number}", check=False)
                    counts["snapshots"] += result.returncode == 0
            disk.fill()
            time.sleep(0.6)
            stop.set()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive(), "a writer hangs"
            assert not failures, failures
            assert daemon.is_running()
            for content in contents.values():
                content.check()
            daemon.restart(crash=True)
            for content in contents.values():
                content.check()
            disk.free()
            disk.grow(900)
            for name, content in contents.items():
                soon(lambda: daemon.squall("snapshot", "create", f"{name}@end", check=False).returncode == 0)
                content.check(f"{name}@end")
            assert daemon.json("status")["dirty_bytes"] == 0
    print(f"filled under load: {counts}", flush=True)


def collection(choices):
    """Removal and garbage collection without a byte to spare, the disk filled by guests or by
    somebody else, before and after a kill: the space comes back, and writers go on."""
    for by_somebody_else in (False, True):
        for killed in (False, True):
            with SmallDisk(260) as disk:
                pool = ["--pool", f"file:{disk.path}/pool"]
                with ConfiguredDaemon(JOURNAL, init_args=pool) as daemon:
                    daemon.squall("volume", "create", "v", "--size", "1G", "--count", "2")
                    kept = Content(daemon, "v-2", choices)
                    handle = daemon.nbd("v-2")
                    for number in range(10):
                        kept.write(handle, number * MIB)
                    daemon.squall("snapshot", "create", "v-2@s")
                    doomed = Content(daemon, "v-1", choices)
                    other = daemon.nbd("v-1")
                    count = doomed.fill(other, 260)
                    other.flush()
                    other.shutdown()
                    daemon.squall("snapshot", "create", "v-1@s", check=False)
                    if by_somebody_else:
                        disk.fill()
                    if killed:
                        handle.shutdown()
                        daemon.restart(crash=True)
                        handle = daemon.nbd("v-2")
                    if by_somebody_else:
                        assert not kept.write(handle, 100 * MIB, {FULL})
                    before = disk.free_bytes()
                    daemon.squall("volume", "remove", "v-1")
                    daemon.squall("gc", timeout_s=60)
                    freed = (disk.free_bytes() - before) // MIB
                    assert freed > count * 3 // 4, f"{freed} MiB came back of {count}"
                    soon(lambda: kept.write(handle, 100 * MIB, {FULL}))
                    handle.flush()
                    handle.shutdown()
                    kept.check()
                    daemon.restart(crash=True)
                    kept.check()
                    assert daemon.squall("check", timeout_s=60).returncode == 0
            print(f"collection: {freed} MiB of {count} came back", flush=True)


class Steady:
    """Writes, flushes and reads one volume all the time, and notes how long each round took."""

    def __init__(self, content):
        self.content = content
        self.stop = threading.Event()
        self.failure = None
        self.latencies_s = []
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(60)
        assert not self.thread.is_alive(), f"{self.content.name} hangs"
        assert self.failure is None, self.failure

    def run(self):
        try:
            handle = self.content.daemon.nbd(self.content.name)
            while not self.stop.is_set():
                begun = time.monotonic()
                at = self.content.choices.randrange(16) * MIB
                self.content.write(handle, at)
                handle.flush()
                assert bytes(handle.pread(MIB, at)) == self.content.pieces[at]
                self.latencies_s.append(time.monotonic() - begun)
                time.sleep(0.01)
            handle.shutdown()
        except BaseException as error:
            self.failure = error


def other_store(choices):
    """The second store is full, goes away and comes back: volumes of the first go on as before,
    those of the second get errors and are served again by themselves."""
    with SmallDisk(130) as disk:
        path = f"{disk.path}/store"
        with ConfiguredDaemon(JOURNAL, init_args=["--store", f"second={path}"]) as daemon:
            daemon.squall("volume", "create", "first", "--size", "256M")
            daemon.squall("volume", "create", "second", "--size", "256M", "--store", "second")
            content = Content(daemon, "second", choices)
            steady = Steady(Content(daemon, "first", random.Random(choices.random())))
            with steady:
                handle = daemon.nbd("second")
                content.fill(handle, 130)
                disk.fill()
                assert not content.write(handle, 200 * MIB, {FULL})
                # What of it was committed already needs no space there.
                result = daemon.squall("snapshot", "create", "second@full", check=False)
                assert result.returncode == 0 or "no space" in result.stderr.lower(), result
                daemon.squall("snapshot", "create", "first@s")
                daemon.squall("volume", "create", "third", "--size", "64M")
                content.check()

                os.rename(path, path + "-away")
                soon(lambda: store(daemon, "second")["level"] == "away")
                assert "second" in store(daemon, "second")["advice"]
                soon(lambda: not content.write(handle, 200 * MIB, {AWAY, FULL}))
                daemon.squall("snapshot", "create", "first@t")
                time.sleep(0.5)
                os.rename(path + "-away", path)
                soon(lambda: store(daemon, "second")["level"] == "full")
                content.check()

                disk.free()
                disk.grow(400)
                soon(lambda: content.write(handle, 200 * MIB, {FULL, AWAY}))
                handle.flush()
                daemon.squall("snapshot", "create", "second@s")
                content.check("second@s")
                handle.shutdown()
            worst_s = max(steady.latencies_s)
            print(f"other store: {len(steady.latencies_s)} rounds, the slowest {worst_s:.2f} s", flush=True)
            assert worst_s < 3, "a stuck store holds up the other one"
            steady.content.check()
            missing_at_start(daemon, path, content, steady.content)


def hanging_store(choices):
    """Writes to the second store hang, as on a disk whose path is gone: its volumes wait, those of
    the first do not, and everything goes on when it answers again. The journal is large enough for
    all that is written meanwhile: what waits for the hanging store keeps its place in it."""
    settings = {"journal": {"size": "512M"}}
    with FileDisk(400) as disk:
        path = f"{disk.path}/store"
        with ConfiguredDaemon(settings, init_args=["--store", f"second={path}"]) as daemon:
            daemon.squall("volume", "create", "first", "--size", "256M")
            daemon.squall("volume", "create", "second", "--size", "256M", "--store", "second")
            content = Content(daemon, "second", choices)
            handle = daemon.nbd("second")
            for number in range(4):
                content.write(handle, number * MIB)
            daemon.squall("snapshot", "create", "second@s")
            disk.freeze()
            for number in range(4, 12):  # into the journal
                content.write(handle, number * MIB)
            handle.flush()
            with Steady(Content(daemon, "first", random.Random(choices.random()))) as steady:
                stuck = threading.Thread(target=daemon.squall, args=("snapshot", "create", "second@t"))
                stuck.start()
                for number in range(4):
                    daemon.squall("snapshot", "create", f"first@{number}", timeout_s=20)
                    daemon.squall("volume", "create", f"more-{number}", "--size", "64M", timeout_s=20)
                    time.sleep(0.4)
                assert stuck.is_alive(), "a snapshot of a volume whose store hangs is said to be there"
                assert daemon.json("status")["dirty_bytes"] > 0
                content.check()
                disk.thaw()
                stuck.join(30)
                assert not stuck.is_alive()
            handle.shutdown()
            content.check("second@t")
            worst_s = max(steady.latencies_s)
            assert worst_s < 3, f"a store that hangs holds up the other one for {worst_s:.1f} s"
            steady.content.check()
    print(f"hanging store: {len(steady.latencies_s)} rounds, the slowest {worst_s:.2f} s", flush=True)


def missing_at_start(daemon, path, away, there):
    daemon.stop()
    os.rename(path, path + "-away")
    os.mkdir(path)  # the empty directory that a disk is to be mounted on
    daemon.start()
    assert "mounted" in daemon.log(), daemon.log()
    assert store(daemon, "second")["level"] == "away"
    assert "AWAY" in daemon.squall("status").stdout
    there.check()
    handle = daemon.nbd("second")
    try:
        handle.pread(MIB, next(iter(away.pieces)))
        raise AssertionError("read from a store that is away")
    except nbd.Error as error:
        assert error.errnum == AWAY, error
    assert not away.write(handle, 250 * MIB, {AWAY})
    os.rmdir(path)
    os.rename(path + "-away", path)
    soon(lambda: store(daemon, "second")["level"] != "away")
    soon(lambda: away.write(handle, 250 * MIB, {AWAY}))
    handle.flush()
    handle.shutdown()
    away.check()
    daemon.restart(crash=True)
    away.check()
    there.check()


def thresholds(choices):
    """A line when a threshold is crossed, once, and the level in the status."""
    settings = {**JOURNAL, "space": {"warn": 50, "critical": 75}}
    with SmallDisk(400) as disk:
        with ConfiguredDaemon(settings, init_args=["--pool", f"file:{disk.path}/pool"]) as daemon:
            assert store(daemon)["level"] == "ok"
            assert store(daemon)["advice"] == ""
            for leave, level, word in ((180, "warn", "warning"), (80, "critical", "error")):
                disk.fill(leave_bytes=leave * MIB)
                soon(lambda: store(daemon)["level"] == level)
                found = store(daemon)
                assert found["available_bytes"] + found["used_bytes"] == found["total_bytes"] == 400 * MIB
                assert "squall gc" in found["advice"], found
                lines = [l for l in daemon.log().splitlines() if "space: store default" in l]
                assert sum(word in line for line in lines) == 1, lines
            text = daemon.squall("status").stdout
            assert "(critical): " in text and "scratch" in text and "journal" in text, text
            disk.free()
            soon(lambda: store(daemon)["level"] == "ok")
            lines = [l for l in daemon.log().splitlines() if "space: store default" in l]
            assert len(lines) == 3, lines
            assert [d["name"] for d in daemon.json("status")["host_disks"]] == ["journal", "scratch"]
    print("thresholds: done", flush=True)


def main():
    if not is_root():
        print("needs root to mount small disks", flush=True)
        return
    choices = random.Random(seed_from_environment())
    wanted = sys.argv[1:]
    for case in (everything_on_one_disk, filled_under_load, collection, other_store, hanging_store, thresholds):
        if not wanted or case.__name__ in wanted:
            case(choices)


if __name__ == "__main__":
    main()
