"""1,000 clones with one command: under 0.1 s in all and under 1 KiB of pool each, whatever the
depth of what they are cloned from."""

from workload import KIB, MIB, Rest, cpu_seconds, import_image, median, pool_bytes, seconds
from workload import snapshot_lineage
from squall_daemon import Daemon

COUNT = 1000
DEPTH = 1000


def create(daemon, name, origin):
    """Seconds elapsed, seconds of the daemon's processor time, bytes by which the pool grew."""
    room, cpu = pool_bytes(daemon)[1], cpu_seconds(daemon)
    elapsed, _ = seconds(
        lambda: daemon.squall("volume", "create", name, "--from", origin, "--count", COUNT)
    )
    return elapsed, cpu_seconds(daemon) - cpu, pool_bytes(daemon)[1] - room


def create_runs(daemon, origin):
    runs = [create(daemon, f"{origin[:4]}{run}", origin) for run in range(7)]
    elapsed, cpu, grown = zip(*runs)
    print(f"1,000 clones of {origin}: {median(elapsed) * 1e3:.1f} ms (best "
          f"{min(elapsed) * 1e3:.1f}), of the daemon's CPU {median(cpu) * 1e3:.1f} ms")
    # The best: what else runs on this machine meanwhile is no cost of the command.
    assert min(elapsed) < 0.1, elapsed
    # At once, the write-ahead log included.
    print(f"  the pool grew by {sum(grown) / len(runs) / COUNT:.0f} bytes each")
    assert sum(grown) < len(runs) * COUNT * KIB, grown
    return median(cpu)


def settled_bytes(daemon):
    """Room that the pool takes once the write-ahead log has been moved into the catalog."""
    daemon.stop()
    room = pool_bytes(daemon)[1]
    daemon.start()
    return room


def main():
    with Daemon() as daemon:
        import_image(daemon)
        # First: later the write-ahead log's file has its full length and grows no more.
        shallow = create_runs(daemon, "debian")
        rest = Rest(daemon)
        rest.create("lineage", "debian")
        snapshot_lineage(daemon, rest, "lineage", DEPTH)
        deep = create_runs(daemon, f"lineage@s{DEPTH}")
        assert deep < 2 * shallow, f"{deep} s of CPU against {shallow}"

        # In the long run, one by one: the log is kept short, and what it held becomes less.
        before = settled_bytes(daemon)
        rest = Rest(daemon)
        for i in range(COUNT):
            rest.create(f"single-{i}", "debian")
        running = pool_bytes(daemon)[1] - before
        grown = settled_bytes(daemon) - before
        print(f"1,000 clones one by one: {grown / COUNT:.0f} bytes each; {running / MIB:.1f} MiB "
              "with the write-ahead log, before it is moved")
        assert grown < COUNT * KIB
        assert running < 8 * MIB, "the write-ahead log is not kept short"


if __name__ == "__main__":
    main()
