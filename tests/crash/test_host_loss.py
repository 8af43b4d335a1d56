#!/usr/bin/python3
"""Durability scope `pool`: what a flush acknowledged survives the loss of the host's journal, also
when part of it was written before the daemon was killed and started again."""

import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))

import nbd
from crash_support import BLOCK, Daemon


def main():
    with Daemon() as daemon:
        daemon.squall("volume", "create", "p", "--size", "8M", "--durability", "pool")
        handle = daemon.nbd("p")
        handle.pwrite(b"\x11" * BLOCK, 0)
        handle.pwrite(b"\x22" * BLOCK, 2 * BLOCK)
        daemon.restart(crash=True)
        handle = daemon.nbd("p")
        handle.flush()  # covers what the killed daemon acknowledged
        handle.pwrite(b"\x33" * BLOCK, BLOCK)
        handle.flush()
        daemon.kill()
        shutil.rmtree(os.path.join(daemon.home, "journal"))
        daemon.start()
        handle = daemon.nbd("p")
        try:
            handle.pwrite(bytes(BLOCK), 0)
            raise AssertionError("a volume of a lost host took a write without a takeover")
        except nbd.Error:
            pass
        del handle
        daemon.squall("volume", "takeover", "p")
        content = bytes(daemon.nbd("p").pread(4 * BLOCK, 0))
        found = [content[at] for at in range(0, len(content), BLOCK)]
        assert found == [0x11, 0x33, 0x22, 0], found


if __name__ == "__main__":
    main()
