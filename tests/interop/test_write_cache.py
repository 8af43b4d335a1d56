#!/usr/bin/python3
"""Who is told of a write cache, and that a flush is answered whether it was offered or not."""

import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))

from raw_nbd import SEND_FLUSH, RawNbd
from squall_daemon import Daemon

CACHED = {"writeback": True, "none": True, "unsafe": True, "writethrough": False, "directsync": False}


def main():
    with Daemon() as daemon:
        for mode, cached in CACHED.items():
            daemon.squall("volume", "create", mode, "--size", "16M", "--cache", mode)
            client = RawNbd.unix(daemon.nbd_socket, mode)
            assert bool(client.flags & SEND_FLUSH) == cached, (mode, hex(client.flags))
            assert client.write(0, b"\x31" * 4096) == 0
            assert client.flush() == 0, mode
            client.close()
            # QEMU's client flushes on its own behalf, and completes it where we offer no flush.
            result = subprocess.run(
                ["qemu-io", "-f", "raw", "-t", "none", "-c", "write -P 50 4k 4k", "-c", "flush",
                 "-c", "read -P 49 0 4k", "-c", "read -P 50 4k 4k", daemon.uri(mode)],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
            assert result.returncode == 0 and "fail" not in result.stdout, (mode, result.stdout)
        # Told no write cache, a client never flushes: all that it was told is there after a kill.
        daemon.restart(crash=True)
        for mode in CACHED:
            assert bytes(daemon.nbd(mode).pread(8192, 0)) == b"\x31" * 4096 + b"\x32" * 4096, mode


if __name__ == "__main__":
    main()
