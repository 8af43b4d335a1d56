#!/usr/bin/python3
"""Every NBD command and flag against a model (nbd_protocol.py) and who may write when
(nbd_admission.py), on the daemon: a volume in every cache mode and in both durabilities, a
stateless one, clones of an image; and, read-only, a snapshot and an image.

NBD_SEED and NBD_STEPS steer the random part of the model check.
"""
import os

from support import CACHE_MODES, MIB, TcpDaemon, run_checks, script

SIZE = "64M"


def create_volumes(daemon):
    """The names of one writable volume of each kind."""
    for mode in CACHE_MODES:
        daemon.squall("volume", "create", mode, "--size", SIZE, "--cache", mode)
    daemon.squall("volume", "create", "pool-durable", "--size", SIZE, "--durability", "pool")
    daemon.squall("volume", "create", "stateless", "--size", SIZE, "--stateless")
    handle = daemon.nbd("pool-durable")
    handle.pwrite(bytes(range(256)) * 4096, 3 * MIB + 512)
    handle.shutdown()
    daemon.squall("snapshot", "create", "pool-durable@snapshot")
    daemon.squall("image", "create", "template", "--from", "pool-durable")
    daemon.squall("volume", "create", "clone", "--from", "template")
    daemon.squall("volume", "create", "stateless-clone", "--from", "template", "--stateless")
    return [*CACHE_MODES, "pool-durable", "stateless", "clone", "stateless-clone"]


def check_protocol(daemon, volumes):
    for i, volume in enumerate(volumes):
        read_only = ("pool-durable@snapshot", "template")[i % 2]
        print(f"--- {volume}, {read_only}")
        script("nbd_protocol.py", daemon.uri(volume), daemon.uri(read_only),
               NBD_STEPS=os.environ.get("NBD_STEPS", "400"))


def check_admission(daemon, volumes):
    for name in ("disk", "slow"):
        daemon.squall("volume", "create", name, "--size", SIZE)
    daemon.squall("volume", "create", "shared", "--size", SIZE, "--shared")
    daemon.squall("image", "create", "image", "--from", "disk")
    script("nbd_admission.py", NBD_SOCKET=daemon.nbd_socket, NBD_PORT=str(daemon.nbd_port))


def main():
    with TcpDaemon() as daemon:
        volumes = create_volumes(daemon)
        run_checks(check_protocol, check_admission, arguments=(daemon, volumes))


if __name__ == "__main__":
    main()
