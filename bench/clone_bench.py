#!/usr/bin/python3
"""What clones and snapshots cost: creation, space, first reads behind long lineages, memory, start-up.

    bench/clone_bench.py            # all; about a minute
    bench/clone_bench.py create     # one of: create, read, memory, start-up

Prints Markdown, as docs/PERFORMANCE.md has it. The programs come from SQUALL_BIN, else from
build/release/bin. Files lie under SQUALL_TEST_DIR, else /tmp: choose the disk to be measured. What is
compared takes turns; times are medians, with the best in brackets.
"""

import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "scale"))

from workload import BLOCK, BLOCKS, KIB, MIB, SPAN, Rest, allow_many_files, clone_lineage  # noqa: E402
from workload import cold_reads, cpu_seconds, import_image, median, pool_bytes, seconds  # noqa: E402
from workload import snapshot_lineage, write_blocks  # noqa: E402
from squall_daemon import Daemon  # noqa: E402

DEPTH = 1000


def ms(times):
    return f"{median(times) * 1e3:.2f} ({min(times) * 1e3:.2f})"


def table(*rows):
    print()
    for i, row in enumerate(rows):
        print("| " + " | ".join(map(str, row)) + " |")
        if i == 0:
            print("|" + "---|" * len(row))


def room(path):
    return os.stat(path).st_blocks * 512


class Overlays:
    """qcow2 overlays of a raw file, made by qemu-img."""

    def __init__(self, base):
        self.directory = tempfile.mkdtemp(prefix="sq-", dir=os.environ.get("SQUALL_TEST_DIR", "/tmp"))
        self.base = shutil.copy(base, self.directory)
        self.made = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.directory)

    def path(self):
        self.made += 1
        return os.path.join(self.directory, f"{self.made}.qcow2")

    def create(self, backing=None, backing_format="raw"):
        path = self.path()
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", backing_format,
                        "-b", backing or self.base, path], check=True)
        return path

    def copy(self, prepared, sync):
        path = self.path()
        with open(prepared, "rb") as source, open(path, "wb") as target:
            shutil.copyfileobj(source, target, MIB)
            if sync:
                target.flush()
                os.fsync(target.fileno())
        return path


def create(daemon, rest):
    """1,000 clones, A B A B; their space; copying and creating qcow2 overlays in the same run."""
    print("\n### 1,000 clones with one command\n")
    base = import_image(daemon)
    fresh = pool_bytes(daemon)[1]
    ways = {
        "squall volume create (the whole command)": lambda n: daemon.squall(
            "volume", "create", n, "--from", "debian", "--count", 1000),
        "POST /v1/volumes (the daemon's part)": lambda n: rest.create(n, "debian", 1000),
    }
    times = {way: [] for way in ways}
    cpu = []
    for run in range(7):
        for number, (way, function) in enumerate(ways.items()):
            before = cpu_seconds(daemon)
            times[way].append(seconds(lambda: function(f"vm{run}{number}"))[0])
            cpu.append(cpu_seconds(daemon) - before)
    grown = pool_bytes(daemon)[1] - fresh
    count = 14 * 1000
    daemon.stop()
    settled = pool_bytes(daemon)[1] - fresh
    daemon.start()
    rows = [("1,000 durable clones", "ms in all", "bytes of pool each")]
    for way, taken in times.items():
        rows.append((way, ms(taken), f"{grown / count:.0f}, later {settled / count:.0f}"))
    with Overlays(base) as overlays:
        made = [seconds(overlays.create) for _ in range(20)]
        prepared = made[0][1]
        for sync in (False, True):
            copied = [seconds(lambda: overlays.copy(prepared, sync))[0] for _ in range(100)]
            rows.append((f"copy of a prepared qcow2 overlay{', fsync' if sync else ', not synced'}"
                         " (x1,000 from 100)", f"{median(copied) * 1e6:.1f}", room(prepared)))
        rows.append(("qemu-img create -b (x1,000 from 20)",
                     f"{median([taken for taken, _ in made]) * 1e6:.0f}", room(prepared)))
    table(*rows)
    print(f"\nThe daemon's processor time for 1,000: {ms(cpu)} ms. `later`: after a clean stop, the "
          "write-ahead log moved into the catalog.")

    rest = Rest(daemon)
    rest.create("lineage", "debian")
    taken, _ = seconds(lambda: snapshot_lineage(daemon, rest, "lineage", DEPTH))
    origins = ("debian", f"lineage@s{DEPTH}")
    times = {origin: [] for origin in origins}
    cpu = {origin: [] for origin in origins}
    for run in range(7):
        for origin in origins:
            before = cpu_seconds(daemon)
            times[origin].append(
                seconds(lambda: rest.create(f"{origin[:3]}-{run}", origin, 1000))[0])
            cpu[origin].append(cpu_seconds(daemon) - before)
    print(f"\n### 1,000 clones of a lineage 1,000 snapshots deep\n\n"
          f"One round of the lineage (8 blocks written, snapshot): {taken / DEPTH * 1e3:.2f} ms.")
    table(("1,000 clones of", "ms in all", "ms of the daemon's processor time"),
          *((origin, ms(times[origin]), ms(cpu[origin])) for origin in origins))


def qcow2_chain(overlays, depth):
    """The top of `depth` overlays on one another, the same blocks written in each."""
    path = overlays.create()
    for level in range(depth + 1):
        if level > 0:
            path = overlays.create(path, "qcow2")
        writes = [f"write -P {level % 255 + 1} {block * BLOCK} {BLOCK}" for block in BLOCKS]
        subprocess.run(["qemu-io", "-f", "qcow2", path],
                       input="\n".join(writes), text=True, check=True, stdout=subprocess.DEVNULL)
    return path


def qcow2_read(path):
    import nbd

    handle = nbd.NBD()
    elapsed, _ = seconds(lambda: (
        handle.connect_systemd_socket_activation(["qemu-nbd", "-r", "-f", "qcow2", path]),
        handle.pread(SPAN, 0)))
    handle.shutdown()
    return elapsed


def read(daemon, rest):
    """The first 2 MiB, nothing cached, behind lineages of all depths and kinds."""
    print("\n### The first 2 MiB, nothing cached\n")
    base = import_image(daemon)
    depths = (0, 12, 50, DEPTH)
    for depth in depths:
        rest.create(f"after-{depth}", "debian")
        snapshot_lineage(daemon, rest, f"after-{depth}", depth)
    handle = daemon.nbd("after-0")
    write_blocks(handle, BLOCKS, 0)
    handle.shutdown()
    rest("POST", "/volumes/after-0/commit")
    rest.create("clone", f"after-{DEPTH}@s{DEPTH}")
    chain = clone_lineage(daemon, rest, "chain", "debian", DEPTH)

    # The worst for any copy-on-write disk: small writes all over the range, kept apart by commits.
    def scattered(round_):
        return random.Random(round_).sample(range(SPAN // BLOCK), 4)

    rest.create("scattered", "debian")
    snapshot_lineage(daemon, rest, "scattered", DEPTH, scattered)
    rest.create("scattered-without", "debian")
    handle = daemon.nbd("scattered-without")
    for round_ in range(1, DEPTH + 1):
        write_blocks(handle, scattered(round_), round_)
        rest("POST", "/volumes/scattered-without/commit")
    handle.shutdown()

    exports = {f"after-{depth}": f"{depth:,} snapshots" for depth in depths}
    exports["after-0"] += " (the same blocks written once)"
    exports["clone"] = "a clone of the 1,000th snapshot"
    exports[chain] = "a clone of a clone ..., 1,000 deep"
    exports["scattered-without"] = "4 random blocks written 1,000 times, no snapshot"
    exports["scattered"] = "the same, 1,000 snapshots"
    costs = cold_reads(daemon, exports, repeats=5)
    table(("volume", "records read", "ms", "ms of the daemon's processor time"),
          *((exports[name], records, ms(elapsed), ms(cpu))
            for name, (elapsed, cpu, records) in costs.items()))

    with Overlays(base) as overlays:
        chains = {depth: qcow2_chain(overlays, depth) for depth in (0, 12, 50)}
        times = {depth: [] for depth in chains}
        for _ in range(5):
            for depth, path in chains.items():
                times[depth].append(qcow2_read(path))
        print("\nFor scale: the same read through qemu-nbd of a qcow2 chain, all in the page cache, "
              "opening the chain included: "
              + ", ".join(f"{depth} overlays {ms(taken)} ms" for depth, taken in times.items()))


def memory(daemon, _):
    print("\n### Memory of the daemon\n")
    allow_many_files(1100)
    import_image(daemon)
    rows = [("state", "MiB resident")]

    def note(state):
        rows.append((state, f"{daemon.rss_bytes() / MIB:.0f}"))

    daemon.restart()
    note("started")
    daemon.squall("volume", "create", "vm", "--from", "debian", "--count", 1000)
    note("1,000 volumes")
    handles = [daemon.nbd(f"vm-{i}") for i in range(1, 1001)]
    note("a client connected to each")
    for i, handle in enumerate(handles):
        handle.pread(256 * KIB, i % 16 * MIB)
        handle.pwrite(b"w" * BLOCK, 0)
        handle.flush()
    note("each has read 256 KiB and written 4 KiB")
    for handle in handles:
        handle.pread(4 * MIB, 0)
    note("each has read 4 MiB with one request")
    for handle in handles:
        handle.shutdown()
    note("the clients gone")
    table(*rows)
    print("\nOf this the record cache holds "
          f"{daemon.json('status')['cache_bytes'] / MIB:.0f} MiB (its budget: 256 MiB).")


def start_up(daemon, _):
    print("\n### Start-up with 10,000 volumes\n")
    import_image(daemon)
    daemon.squall("volume", "create", "vm", "--from", "debian", "--count", 10_000)

    def measure(state, crash, prepare=lambda: None):
        times = []
        for _ in range(5):
            prepare()
            daemon.restart(crash=crash)
            times.append(daemon.start_up_s)
        return state, ms(times)

    def dirty():
        # 100 volumes, 1 MiB each in blocks of 4 KiB: 25,600 records of the journal.
        for i in range(1, 101):
            handle = daemon.nbd(f"vm-{i}")
            for block in range(256):
                handle.pwrite(os.urandom(BLOCK), block * 8 * KIB)
            handle.shutdown()

    table(("exec to ready", "ms"),
          measure("after a clean stop", False),
          measure("killed, nothing dirty", True),
          measure("killed, 100 MiB in 25,600 writes to replay", True, dirty))


SECTIONS = {"create": create, "read": read, "memory": memory, "start-up": start_up}


def main():
    names = sys.argv[1:] or list(SECTIONS)
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        sys.exit(f"no section {unknown[0]}; there are: {', '.join(SECTIONS)}")
    for name in names:
        with Daemon() as daemon:
            SECTIONS[name](daemon, Rest(daemon))


if __name__ == "__main__":
    main()
