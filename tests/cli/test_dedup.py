#!/usr/bin/python3
"""Deduplication from outside: images and volumes of the same content take the room of one, also
after a restart and a kill; --no-dedup and its heirs keep apart; status says so."""

import os
import random
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))

from crash_support import ConfiguredDaemon
from squall_daemon import Daemon

MIB = 1 << 20
SIZE = 24 * MIB


def stored(daemon):
    return daemon.json("status")["pool_allocated_bytes"]


def wait_indexed(daemon):
    deadline = time.monotonic() + 120
    while not daemon.json("status")["dedup_index_complete"]:
        assert time.monotonic() < deadline, "the index is never complete"
        time.sleep(0.05)


def write_and_commit(daemon, name, data):
    handle = daemon.nbd(name)
    for at in range(0, len(data), MIB):
        handle.pwrite(data[at : at + MIB], at)
    handle.shutdown()
    daemon.squall("snapshot", "create", f"{name}@s")
    handle = daemon.nbd(f"{name}@s")
    assert b"".join(handle.pread(MIB, at) for at in range(0, len(data), MIB)) == data
    handle.shutdown()


def main():
    data = random.Random(1).randbytes(SIZE)
    with Daemon() as daemon:
        source = os.path.join(daemon.home, "disk.raw")
        with open(source, "wb") as file:
            file.write(data)
        daemon.squall("image", "import", "first", source)
        once = stored(daemon)
        assert once > SIZE

        daemon.squall("image", "import", "second", source, "--verify")
        status = daemon.json("status")
        assert status["dedup_bytes_saved"] >= SIZE * 0.95, status
        assert stored(daemon) < once + MIB, (once, stored(daemon))
        assert "saved" in daemon.squall("status").stdout

        for crash in (False, True):
            daemon.restart(crash=crash)
            wait_indexed(daemon)
            name = "after-crash" if crash else "after-stop"
            daemon.squall("volume", "create", name, "--size", SIZE)
            write_and_commit(daemon, name, data)
            assert daemon.json("status")["dedup_bytes_saved"] >= SIZE * 0.95
            assert stored(daemon) < once + 2 * MIB, (once, stored(daemon))

        daemon.squall("image", "import", "apart", source, "--no-dedup")
        assert not daemon.json("image", "show", "apart")["deduplicate"]
        assert stored(daemon) > 2 * once - MIB, (once, stored(daemon))
        before = daemon.json("status")["dedup_blocks_seen"]
        daemon.squall("volume", "create", "heir", "--from", "apart")
        daemon.squall("volume", "create", "loner", "--from", "first", "--no-dedup")
        for name in ("heir", "loner"):
            assert not daemon.json("volume", "show", name)["deduplicate"]
            write_and_commit(daemon, name, data[:MIB])
        assert daemon.json("status")["dedup_blocks_seen"] == before

    with ConfiguredDaemon({"deduplication": {"index": "0"}}) as daemon:
        assert daemon.json("status")["dedup_index_rate"] == 0
        assert "off" in daemon.squall("status").stdout


if __name__ == "__main__":
    main()
