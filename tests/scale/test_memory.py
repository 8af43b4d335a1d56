"""The daemon with 1,000 idle volumes stays under 200 MiB: with nobody connected, with a client on
each, and after each client has read and written."""

from workload import BLOCK, KIB, MIB, allow_many_files, import_image
from squall_daemon import Daemon

COUNT = 1000
LIMIT = 200 * MIB


def check(daemon, state):
    used = daemon.rss_bytes()
    print(f"{state}: {used / MIB:.0f} MiB")
    assert used < LIMIT, f"{state}: {used} bytes resident"


def main():
    allow_many_files(COUNT + 100)
    with Daemon() as daemon:
        import_image(daemon)
        daemon.squall("volume", "create", "vm", "--from", "debian", "--count", COUNT)
        check(daemon, "1,000 volumes")
        handles = [daemon.nbd(f"vm-{i}") for i in range(1, COUNT + 1)]
        check(daemon, "1,000 volumes with a client each")
        assert daemon.json("status")["open_volumes"] == COUNT
        for i, handle in enumerate(handles):
            handle.pread(256 * KIB, i % 16 * MIB)
            handle.pwrite(b"w" * BLOCK, 0)
            handle.flush()
        check(daemon, "1,000 volumes, each client has read 256 KiB and written")
        for handle in handles:
            handle.shutdown()
        check(daemon, "the clients gone")


if __name__ == "__main__":
    main()
