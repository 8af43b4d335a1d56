"""The first 2 MiB of a volume cost the same to read, from a cold cache, however many snapshots or
clones lie behind it: the same number of records (index pages and chunks) from the pool, and no
more processor time.

The same blocks are rewritten before each snapshot, so that all volumes compared have the same
layout; the one without snapshots has them written once. SQUALL_DEPTH: of the chain of clones."""

import os

from workload import BLOCKS, KIB, SPAN, Rest, clone_lineage, cold_reads, import_image
from workload import median, snapshot_lineage, write_blocks
from squall_daemon import Daemon

CHUNK = 64 * KIB
CLONES = int(os.environ.get("SQUALL_DEPTH", "100"))


def main():
    with Daemon() as daemon:
        rest = Rest(daemon)
        import_image(daemon)
        for depth in (0, 12, 50, 1000):
            rest.create(f"after-{depth}", "debian")
            snapshot_lineage(daemon, rest, f"after-{depth}", depth)
        handle = daemon.nbd("after-0")
        write_blocks(handle, BLOCKS, 0)
        handle.shutdown()
        rest("POST", "/volumes/after-0/commit")
        rest.create("clone-of-1000", "after-1000@s1000")
        last_clone = clone_lineage(daemon, rest, "chain", "debian", CLONES)

        exports = ["after-0", "after-12", "after-50", "after-1000", "after-1000@s500",
                   "clone-of-1000", last_clone]
        costs = cold_reads(daemon, exports, repeats=3)
        for export, (elapsed, cpu, records) in costs.items():
            print(f"{export}: {records} records, {median(elapsed) * 1e3:.2f} ms, of the daemon's "
                  f"CPU {median(cpu) * 1e3:.2f} ms")
        _, base_cpu, base_records = costs["after-0"]
        assert base_records >= SPAN // CHUNK, "the first 2 MiB were not read from the pool"
        for export, (_, cpu, records) in costs.items():
            assert records == base_records, f"{export}: {records} records, not {base_records}"
            assert median(cpu) < 3 * median(base_cpu), f"{export}: {cpu} s against {base_cpu} s"


if __name__ == "__main__":
    main()
