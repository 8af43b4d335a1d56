"""Space amplification under random 4 KiB overwrites with snapshots coming and going: the pool never
holds more than 1.5 times what is live, sampled all along.

The short form runs as a test, about a minute. SQUALL_LOG=1 shows the daemon's log. The long one, a 4 GiB region overwritten several times at the pace of
an hour's steady work:

    SQUALL_REGION_MIB=4096 SQUALL_WRITES=4000000 SQUALL_RATE_MIB=16 python3 tests/space/test_overwrite.py

SQUALL_RATE_MIB=0 writes as fast as it goes."""

import os
import random
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from squall_daemon import Daemon

MIB = 1 << 20
BLOCK = 4096
REGION_MIB = int(os.environ.get("SQUALL_REGION_MIB", "512"))
BLOCKS = REGION_MIB * MIB // BLOCK
WRITES = int(os.environ.get("SQUALL_WRITES", str(BLOCKS * 3 // 2)))
RATE_MIB = float(os.environ.get("SQUALL_RATE_MIB", "12"))
LIMIT = float(os.environ.get("SQUALL_AMPLIFICATION", "1.5"))
SNAPSHOTS_KEPT = 2
SNAPSHOT_EVERY = max(BLOCKS // 4, 1)  # writes
DEPTH = 32


def allocated_bytes(daemon):
    total = 0
    directory = os.path.join(daemon.home, "pool/segments")
    for entry in os.scandir(directory):
        try:
            total += entry.stat().st_blocks * 512
        except FileNotFoundError:
            pass  # removed while we look
    return total


class Region:
    """Which write each block holds, in the volume and in its snapshots."""

    def __init__(self):
        self.now = list(range(BLOCKS))
        self.snapshots = {}

    def live_bytes(self):
        distinct = set(self.now)
        for versions in self.snapshots.values():
            distinct.update(versions)
        return len(distinct) * BLOCK


def fill(handle, rng):
    for at in range(0, REGION_MIB, 2):
        handle.pwrite(rng.randbytes(2 * MIB), at * MIB)
    handle.flush()


def overwrite(handle, rng, region, first_version, count):
    """`count` writes at random places, DEPTH at a time."""
    pool = rng.randbytes(MIB)
    for version in range(first_version, first_version + count):
        block = rng.randrange(BLOCKS)
        region.now[block] = version
        at = rng.randrange(MIB - BLOCK)
        # Never the same bytes twice: nothing to deduplicate, nothing to compress.
        data = version.to_bytes(8, "little") + pool[at : at + BLOCK - 8]
        while handle.aio_in_flight() >= DEPTH:
            handle.poll(-1)
        handle.aio_pwrite(data, block * BLOCK, completion=lambda error: 1)
        if version % 4096 == 0:
            pool = rng.randbytes(MIB)
    while handle.aio_in_flight() > 0:
        handle.poll(-1)


def turn_over_snapshots(daemon, region, number):
    daemon.squall("snapshot", "create", f"v@s{number}")
    region.snapshots[number] = list(region.now)
    while len(region.snapshots) > SNAPSHOTS_KEPT:
        oldest = min(region.snapshots)
        daemon.squall("snapshot", "remove", f"v@s{oldest}")
        del region.snapshots[oldest]


def main():
    rng = random.Random(7)
    worst = 0.0
    with Daemon() as daemon:
        daemon.squall("volume", "create", "v", "--size", f"{REGION_MIB}M")
        handle = daemon.nbd("v")
        fill(handle, rng)
        daemon.squall("gc")
        region = Region()
        batch = max(BLOCKS // 64, 256)
        done = 0
        snapshots = 0
        started = time.monotonic()
        while done < WRITES:
            overwrite(handle, rng, region, BLOCKS + done, batch)
            done += batch
            if done // SNAPSHOT_EVERY > snapshots:
                snapshots += 1
                handle.flush()
                turn_over_snapshots(daemon, region, snapshots)
            held, live = allocated_bytes(daemon), region.live_bytes()
            worst = max(worst, held / live)
            if done % (batch * 8) == 0:
                gc = daemon.json("status")["gc"]
                print(
                    f"{done} writes in {time.monotonic() - started:.0f} s: live {live / MIB:.0f} MiB, "
                    f"held {held / MIB:.0f} MiB, {held / live:.2f} times (worst {worst:.2f}), "
                    f"last gc moved {gc['last']['moved_bytes'] / MIB:.0f} MiB",
                    flush=True,
                )
            assert held <= LIMIT * live, f"the pool holds {held / live:.2f} times what is live"
            if RATE_MIB > 0:
                due = done * BLOCK / (RATE_MIB * MIB)
                time.sleep(max(0.0, due - (time.monotonic() - started)))
        handle.shutdown()
        if os.environ.get("SQUALL_LOG"):
            print(daemon.log())
    print(f"{done} writes over {REGION_MIB} MiB: at most {worst:.2f} times what is live")


if __name__ == "__main__":
    main()
