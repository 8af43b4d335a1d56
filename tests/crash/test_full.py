#!/usr/bin/python3
"""Full disks, exhausted limits and crowds: errors where they belong, and service afterwards.

Pool, journal and scratch on file systems of a few MiB (tmpfs: needs root, skipped without); a low
limit of open files; thousands of volumes; verbs racing each other and clients coming and going
under load. What was acknowledged stays right throughout, also over a kill.
"""

import errno
import os
import random
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))

import nbd
from crash_support import ConfiguredDaemon, is_root, seed_from_environment
from small_disk import SmallDisk

MIB = 1 << 20
JOURNAL = {"journal": {"size": "64M"}}


def fill(handle, size, choices):
    """Writes incompressible blocks until the disk says that it is full; what was acknowledged."""
    written = {}
    for at in range(0, size, MIB):
        data = choices.randbytes(MIB)
        try:
            handle.pwrite(data, at)
        except nbd.Error as error:
            assert error.errnum == errno.ENOSPC, error
            return written, True
        written[at] = data
    return written, False


def check(daemon, volume, written):
    handle = daemon.nbd(volume)
    for at, data in written.items():
        assert bytes(handle.pread(len(data), at)) == data, f"{volume}: wrong data at {at}"
    handle.shutdown()


def full_pool(choices):
    with SmallDisk(160) as disk:
        with ConfiguredDaemon(JOURNAL, init_args=["--pool", f"file:{disk.path}/pool"]) as daemon:
            for name in ("a", "b"):
                daemon.squall("volume", "create", name, "--size", "1G")
            handle = daemon.nbd("a")
            written, full = fill(handle, 512 * MIB, choices)
            assert full, "a pool of 160 MiB took 512"
            assert len(written) > 40, f"only {len(written)} MiB fit in"
            handle.flush()
            try:  # a second volume is refused as well, and harms nobody
                daemon.nbd("b").pwrite(choices.randbytes(16 * MIB), 0)
            except nbd.Error as error:
                assert error.errnum == errno.ENOSPC, error
            check(daemon, "a", written)
            daemon.squall("snapshot", "create", "a@full", check=False)
            handle.shutdown()
            daemon.restart(crash=True)
            check(daemon, "a", written)
            disk.grow(600)
            handle = daemon.nbd("a")
            retry(lambda: handle.pwrite(b"\x77" * MIB, 600 * MIB))
            written[600 * MIB] = b"\x77" * MIB
            handle.flush()
            daemon.squall("snapshot", "create", "a@after")
            check(daemon, "a@after", written)
            daemon.restart(crash=True)
            check(daemon, "a", written)
            check(daemon, "a@after", written)
    print(f"full pool: {len(written)} MiB written", flush=True)


def retry(action, seconds=5):
    """Room is looked at twice a second."""
    for _ in range(seconds * 10):
        try:
            return action()
        except nbd.Error as error:
            assert error.errnum == errno.ENOSPC, error
            threading.Event().wait(0.1)
    return action()


def full_journal_disk(choices):
    """The journal's disk takes far less than the journal's configured size."""
    with SmallDisk(24) as disk:
        settings = {"journal": {"size": "64M", "directory": f"{disk.path}/journal"}}
        with ConfiguredDaemon(settings) as daemon:
            for name, mode in (("w", "writeback"), ("d", "directsync")):
                daemon.squall("volume", "create", name, "--size", "256M", "--cache", mode)
            written = {"w": {}, "d": {}}
            refused = 0
            for number in range(100):
                for name in written:
                    handle = daemon.nbd(name)
                    data = choices.randbytes(MIB)
                    at = choices.randrange(256) * MIB
                    try:
                        handle.pwrite(data, at)
                        written[name][at] = data
                    except nbd.Error as error:
                        assert error.errnum == errno.ENOSPC, error
                        written[name].pop(at, None)  # may have landed in part
                        refused += 1
                    handle.shutdown()
                if number == 50:
                    daemon.restart(crash=True)
            for name, content in written.items():
                check(daemon, name, content)
            daemon.restart(crash=True)
            for name, content in written.items():
                check(daemon, name, content)
            disk.grow(200)
            for name in written:
                handle = daemon.nbd(name)
                handle.pwrite(b"\x99" * MIB, 0)
                assert bytes(handle.pread(MIB, 0)) == b"\x99" * MIB
                handle.shutdown()
    print(f"full journal disk: {refused} of 200 writes refused", flush=True)


def full_scratch(choices):
    with SmallDisk(32) as disk:
        settings = {"scratch": {"directory": f"{disk.path}/scratch"}}
        with ConfiguredDaemon(settings) as daemon:
            for name in ("s", "t"):
                daemon.squall("volume", "create", name, "--size", "1G", "--stateless")
            handle = daemon.nbd("s")
            written, full = fill(handle, 128 * MIB, choices)
            assert full, "a scratch of 32 MiB took 128"
            try:  # the state map's first touches must not kill the daemon either
                other = daemon.nbd("t")
                for at in range(0, 1 << 30, 64 * MIB):
                    other.zero(MIB, at)
                other.pwrite(b"\x01" * MIB, 0)
            except nbd.Error:
                pass
            assert daemon.is_running(), "a full scratch killed the daemon"
            check(daemon, "s", written)
            handle.shutdown()
            daemon.restart(crash=True)
            check(daemon, "s", written)
            handle = daemon.nbd("s")
            for at in list(written)[: len(written) // 2]:
                handle.trim(MIB, at)
                del written[at]
            handle.pwrite(b"\x55" * MIB, 700 * MIB)  # what was trimmed is free again
            check(daemon, "s", written)
            disk.grow(128)
            fill(daemon.nbd("s"), 16 * MIB, choices)
    print("full scratch: done", flush=True)


def few_files(choices):
    """At the limit of open files newcomers wait outside; who is in is served, and so are they as
    soon as others have left."""
    program = ["prlimit", "--nofile=256:256"]
    with ConfiguredDaemon(JOURNAL, program=program) as daemon:
        daemon.squall("volume", "create", "v", "--size", "64M")
        handle = daemon.nbd("v")
        handle.pwrite(b"\x42" * 4096, 0)
        crowd = []
        for _ in range(400):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.settimeout(5)
            client.connect(daemon.nbd_socket)
            crowd.append(client)
        time.sleep(0.5)
        spent_s = cpu_seconds(daemon.process.pid)
        for number in range(50):
            handle.pwrite(choices.randbytes(MIB), number * MIB)
        handle.pwrite(b"\x42" * 4096, 0)
        handle.flush()
        assert bytes(handle.pread(4096, 0)) == b"\x42" * 4096
        time.sleep(0.5)
        spent_s = cpu_seconds(daemon.process.pid) - spent_s
        assert spent_s < 0.8, f"turning clients away keeps the daemon busy: {spent_s:.1f} s"
        for client in crowd:
            client.close()
        assert len(daemon.json("volume", "list")) == 1
        assert bytes(daemon.nbd("v").pread(4096, 0)) == b"\x42" * 4096
        daemon.restart(crash=True)
        assert bytes(daemon.nbd("v").pread(4096, 0)) == b"\x42" * 4096
    print(f"few files: done, {spent_s:.2f} s of CPU", flush=True)


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def crowd(choices):
    """Two thousand volumes, all open and written, then a kill."""
    count = 2000
    with ConfiguredDaemon(JOURNAL) as daemon:
        daemon.squall("volume", "create", "v", "--count", count, "--size", "1G")
        handles = []
        for number in range(1, count + 1):
            handle = daemon.nbd(f"v-{number}")
            handle.pwrite(number.to_bytes(4, "big") * 128, number * 512)
            handles.append(handle)
        rss = daemon.rss_bytes()
        daemon.kill()
        del handles
        daemon.start()
        start_up_s = daemon.start_up_s
        for number in choices.sample(range(1, count + 1), 200):
            handle = daemon.nbd(f"v-{number}")
            assert bytes(handle.pread(512, number * 512)) == number.to_bytes(4, "big") * 128
            handle.shutdown()
    print(f"crowd: {rss // MIB} MiB with {count} volumes open, start-up {start_up_s:.2f} s", flush=True)
    assert rss < 400 * MIB


def races(choices):
    """Verbs against each other, against writers and against clients that come and go."""
    with ConfiguredDaemon(JOURNAL) as daemon:
        stop = threading.Event()
        failures = []
        daemon.squall("volume", "create", "v", "--size", "32M")
        daemon.squall("volume", "create", "s", "--size", "32M", "--stateless")

        def guarded(work, seed):
            own = random.Random(seed)
            try:
                while not stop.is_set():
                    work(own)
            except BaseException as error:
                failures.append(error)

        def verbs(own):
            name = own.choice("abc")
            verb = own.choice(
                [
                    ("volume", "create", name, "--size", "8M"),
                    ("volume", "create", name, "--size", "8M", "--stateless"),
                    ("volume", "remove", name),
                    ("volume", "remove", name, "--force"),
                    ("volume", "resize", name, f"{own.randint(1, 16)}M"),
                    ("snapshot", "create", f"{name}@{own.choice('xy')}"),
                    ("snapshot", "remove", f"{name}@{own.choice('xy')}"),
                    ("volume", "rollback", f"{name}@{own.choice('xy')}"),
                    ("volume", "create", own.choice("abc"), "--from", f"{name}@x"),
                    ("image", "create", own.choice("ij"), "--from", name),
                    ("image", "remove", own.choice("ij")),
                    ("volume", "list"),
                    ("volume", "resize", "v", f"{own.randint(32, 64)}M"),
                    ("volume", "resize", "s", f"{own.randint(32, 64)}M"),
                ]
            )
            result = daemon.squall(*verb, check=False, timeout_s=30)
            assert result.returncode in (0, 1), (verb, result.stderr)

        def clients(own):
            handle = None
            try:
                handle = daemon.nbd(own.choice(["a", "b", "c", "i", "a@x", "none"]))
                if not handle.is_read_only():
                    handle.pwrite(own.randbytes(65536), 4096 * own.randrange(64))
                handle.pread(65536, 4096 * own.randrange(64))
            except nbd.Error:
                pass
            del handle  # without goodbye

        def writer(name):
            handle = daemon.nbd(name)

            def work(own):
                at = own.randrange(32 * MIB - 65536)
                data = own.randbytes(own.randint(1, 65536))
                handle.pwrite(data, at)
                assert bytes(handle.pread(len(data), at)) == data, f"{name}: wrong data at {at}"

            return work

        works = [verbs, verbs, verbs, clients, clients, writer("v"), writer("s")]
        threads = [
            threading.Thread(target=guarded, args=(work, choices.random())) for work in works
        ]
        for thread in threads:
            thread.start()
        stop.wait(float(os.environ.get("SQUALL_SECONDS", "6")))
        stop.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a verb or a client hangs"
        assert not failures, failures
        assert daemon.is_running()
        before = {row["name"]: row["size_bytes"] for row in daemon.json("volume", "list")}
        daemon.restart(crash=True)
        after = {row["name"]: row["size_bytes"] for row in daemon.json("volume", "list")}
        assert before == after, (before, after)
    print("races: done", flush=True)


def main():
    choices = random.Random(seed_from_environment())
    wanted = sys.argv[1:]
    for case in (full_pool, full_journal_disk, full_scratch, few_files, crowd, races):
        if wanted and case.__name__ not in wanted:
            continue
        if case.__name__.startswith("full_") and not is_root():
            print(f"{case.__name__}: needs root to mount a small disk", flush=True)
            continue
        case(choices)


if __name__ == "__main__":
    main()
