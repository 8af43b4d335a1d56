"""From exec to the ready line with 10,000 volumes in the catalog: under 1 s, after a stop and after
a kill with dirty volumes."""

from workload import Rest, import_image, median
from squall_daemon import Daemon

COUNT = 10_000
DIRTY = 50


def restarts(daemon, crash):
    times = []
    for _ in range(5):
        daemon.restart(crash=crash)
        times.append(daemon.start_up_s)
    return median(times)


def main():
    with Daemon() as daemon:
        import_image(daemon)
        daemon.squall("volume", "create", "vm", "--from", "debian", "--count", COUNT)
        stopped = restarts(daemon, crash=False)
        assert len(Rest(daemon)("GET", "/volumes")) == COUNT
        for i in range(1, DIRTY + 1):
            handle = daemon.nbd(f"vm-{i}")
            handle.pwrite(b"%04d" % i * 4096, 0)
            handle.shutdown()
        killed = restarts(daemon, crash=True)
        print(f"start-up with 10,000 volumes: {stopped:.3f} s, killed while dirty {killed:.3f} s")
        assert stopped < 1 and killed < 1
        for i in range(1, DIRTY + 1):
            assert daemon.nbd(f"vm-{i}").pread(4, 16380) == b"%04d" % i


if __name__ == "__main__":
    main()
