#!/usr/bin/python3
"""nbdinfo, nbdcopy, qemu-img, qemu-io and fio (nbd_tools.py) on a volume in every cache mode, on a
stateless one and on a clone, all on one daemon."""
from support import CACHE_MODES, Daemon, run_checks, script


def check_tools(daemon):
    for mode in CACHE_MODES:
        daemon.squall("volume", "create", mode, "--size", "64M", "--cache", mode)
    daemon.squall("volume", "create", "stateless", "--size", "64M", "--stateless")
    daemon.squall("snapshot", "create", "writeback@empty")
    daemon.squall("volume", "create", "clone", "--from", "writeback@empty")
    for kind in (*CACHE_MODES, "stateless", "clone"):
        print(f"--- {kind}")
        script("nbd_tools.py", daemon.uri(kind))


def main():
    with Daemon() as daemon:
        run_checks(check_tools, arguments=(daemon,))


if __name__ == "__main__":
    main()
