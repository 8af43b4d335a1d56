"""Garbage collection with a real daemon: a removed image gives back what its clones do not share,
the clones are intact, and a pool from which everything was removed is empty."""

import os
import random
import subprocess
import tempfile

from squall_daemon import Daemon

MIB = 1 << 20
IMAGE_MIB = 64


def held_bytes(daemon):
    """What the pool's segments take on disk."""
    output = subprocess.run(
        ["du", "-s", "-B1", os.path.join(daemon.home, "pool/segments")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return int(output.split()[0])


def import_image(daemon, name, content):
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        daemon.squall("image", "import", name, file.name)


def write(daemon, volume, offset, data):
    handle = daemon.nbd(volume)
    handle.pwrite(data, offset)
    handle.flush()
    handle.shutdown()


def expect(daemon, volume, content):
    handle = daemon.nbd(volume)
    for at in range(0, len(content), 8 * MIB):
        part = content[at : at + 8 * MIB]
        assert handle.pread(len(part), at) == part, f"{volume} differs near {at}"
    handle.shutdown()


def main():
    rng = random.Random(11)
    with Daemon() as daemon:
        empty = held_bytes(daemon)
        image = rng.randbytes(IMAGE_MIB * MIB)
        import_image(daemon, "debian", image)
        daemon.squall("volume", "create", "c", "--from", "debian", "--count", "3")
        clones = {}
        # Together the clones replace the image's second quarter.
        for i in range(3):
            content = bytearray(image)
            content[16 * MIB : 32 * MIB] = rng.randbytes(16 * MIB)
            name = f"c-{i + 1}"
            clones[name] = content
            write(daemon, name, 16 * MIB, bytes(content[16 * MIB : 32 * MIB]))
            daemon.squall("snapshot", "create", f"{name}@s")
        before = daemon.json("gc")
        assert before["unreadable_segments"] == 0, before
        assert 110 * MIB < before["live_bytes"] < 116 * MIB, before
        daemon.squall("image", "remove", "debian")
        after = daemon.json("gc")
        # 16 MiB of the image were in nobody's clone.
        assert after["freed_bytes"] > 15 * MIB, after
        assert held_bytes(daemon) < 1.05 * 96 * MIB, (after, held_bytes(daemon))
        daemon.restart(crash=True)
        for name, content in clones.items():
            expect(daemon, name, content)
            expect(daemon, f"{name}@s", content)
        daemon.squall("check")
        status = daemon.squall("status").stdout
        assert "live data" in status, status
        for name in clones:
            daemon.squall("volume", "remove", name)
        gone = daemon.json("gc")
        assert gone["live_bytes"] == 0, gone
        assert held_bytes(daemon) - empty <= 0.01 * before["held_bytes"], held_bytes(daemon)
        daemon.squall("check")


main()
