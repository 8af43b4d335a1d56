#!/usr/bin/python3
"""Bit rot in the journal of a real daemon: EIO for what is hit, never other bytes; a start that
refuses what it cannot be sure of and says what to do; volumes that lost data say so until they are
rolled back.
"""

import errno
import glob
import os
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))

import nbd
from squall_daemon import Daemon, binary

BLOCK = 4096


def stamped(stamp):
    return struct.pack("<Q", stamp) * (BLOCK // 8)


def rot(daemon, stamp):
    """Flips a bit of the block with this stamp wherever the journal has it; the last such file."""
    hit = None
    for path in sorted(glob.glob(f"{daemon.home}/journal/slot-*.wal")):
        with open(path, "r+b") as file:
            content = file.read()
            at = content.find(stamped(stamp))
            while at >= 0:
                file.seek(at + 100)
                file.write(bytes([content[at + 100] ^ 4]))
                hit = path
                at = content.find(stamped(stamp), at + BLOCK)
    assert hit, f"no block {stamp} in the journal"
    return hit


def expect_eio(handle, block):
    try:
        data = bytes(handle.pread(BLOCK, block * BLOCK))
    except nbd.Error as error:
        assert error.errnum == errno.EIO, error
        return
    raise AssertionError(f"block {block} could be read: {data[:16]}")


def expect(handle, block, stamp):
    assert bytes(handle.pread(BLOCK, block * BLOCK)) == stamped(stamp), f"block {block}"


def damaged_block(daemon):
    handle = daemon.nbd("v")
    for block in range(8):
        handle.pwrite(stamped(100 + block), block * BLOCK)
    rot(daemon, 103)
    expect_eio(handle, 3)
    for block in (0, 2, 4, 7):
        expect(handle, block, 100 + block)
    assert daemon.json("status")["damaged_journal_reads"] > 0
    handle.pwrite(stamped(203), 3 * BLOCK)
    expect(handle, 3, 203)
    handle.flush()
    handle.shutdown()
    daemon.squall("snapshot", "create", "v@s")


def refused_start(daemon):
    handle = daemon.nbd("v")
    for block in range(6):
        handle.pwrite(stamped(300 + block), block * BLOCK, nbd.CMD_FLAG_FUA)
    daemon.kill()
    path = rot(daemon, 301)
    for _ in range(2):
        result = subprocess.run(
            [binary("squalld")], env=daemon.environment, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 1, result
        last = result.stderr.strip().splitlines()[-1]
        for part in (path, "--accept-journal-loss", "(v)"):
            assert part in last, last
    daemon.arguments = ["--accept-journal-loss"]
    daemon.start()
    daemon.arguments = []
    for _ in range(2):
        assert daemon.json("volume", "show", "v")["lost"] is True
        assert daemon.json("volume", "show", "w")["lost"] is False
        assert daemon.json("status")["lost_volumes"] == 1
        assert "LOST" in daemon.squall("volume", "list").stdout
        assert "LOST" in daemon.squall("status").stdout
        expect_eio(daemon.nbd("v"), 5)
        daemon.nbd("w").pwrite(stamped(7), 0)
        daemon.restart(crash=True)
    daemon.squall("volume", "rollback", "v@s")
    handle = daemon.nbd("v")
    expect(handle, 3, 203)
    expect(handle, 0, 100)
    assert daemon.json("status")["lost_volumes"] == 0


def main():
    with Daemon() as daemon:
        for name in ("v", "w"):
            daemon.squall("volume", "create", name, "--size", "64M")
        damaged_block(daemon)
        refused_start(daemon)
    print("bit rot in the journal: found, told, and got over")


if __name__ == "__main__":
    main()
