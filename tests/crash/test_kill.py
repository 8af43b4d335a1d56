#!/usr/bin/python3
"""A daemon that is killed loses no acknowledged write, in any cache mode.

Volumes of every cache mode and scope, and a stateless one, are written at once with requests in
flight on each, while the daemon is killed with SIGKILL at random moments and started again. After
each round every sector must hold its last acknowledged write, or one that was sent and never
answered. The journal is as small as it can be, so that it wraps and commits run meanwhile.

SQUALL_KILL_ROUNDS: rounds (20). SQUALL_SEED: repeats the choices of a run.
"""

import errno
import os
import random
import select
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))

import nbd
from crash_support import (
    BLOCK,
    SECTOR,
    ConfiguredDaemon,
    StampedVolume,
    read_all,
    seed_from_environment,
    stamp,
)

ROUNDS = int(os.environ.get("SQUALL_KILL_ROUNDS", "20"))
VOLUME_BYTES = 8 << 20
DEPTH = 12
# What libnbd reports for requests that were outstanding when the daemon died.
CONNECTION_BROKE = (errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE)

VOLUMES = {
    "writeback": ["--cache", "writeback"],
    "none": ["--cache", "none"],
    "writethrough": ["--cache", "writethrough"],
    "directsync": ["--cache", "directsync"],
    "unsafe": ["--cache", "unsafe"],
    "pool": ["--cache", "writeback", "--durability", "pool"],
    "pool-through": ["--cache", "writethrough", "--durability", "pool"],
    "stateless": ["--stateless"],
}


class Writer:
    """Keeps DEPTH requests in flight on one volume until its connection breaks."""

    def __init__(self, daemon, volume, choices):
        self.volume = volume
        self.choices = choices
        self.handle = daemon.nbd(volume.name)
        self.handle.set_strict_mode(0)
        self.pending = 0
        self.failure = None

    def fill(self):
        while self.pending < DEPTH:
            self.send()

    def pick_range(self):
        sectors = self.volume.size // SECTOR
        kind = self.choices.random()
        if kind < 0.5:  # a block
            first = self.choices.randrange(sectors // 8) * 8
            count = 8
        elif kind < 0.95:  # anything small, unaligned
            first = self.choices.randrange(sectors)
            count = self.choices.randint(1, 40)
        else:  # long
            first = self.choices.randrange(sectors)
            count = self.choices.randint(100, 1000)
        return first, min(count, sectors - first)

    def send(self):
        for _ in range(20):
            first, count = self.pick_range()
            if self.volume.is_free(first, count):
                break
        else:
            return
        kind = self.choices.random()
        fua = nbd.CMD_FLAG_FUA if self.choices.random() < 0.05 else 0
        done = lambda error: self.completed(first, count, error)
        offset, length = first * SECTOR, count * SECTOR
        self.pending += 1
        if kind < 0.05:
            self.volume.sent(first, count, zero=True)
            self.handle.aio_zero(length, offset, completion=done, flags=fua)
        elif kind < 0.07 and offset % BLOCK == 0 and length % BLOCK == 0:
            self.volume.sent(first, count, zero=True)
            self.handle.aio_trim(length, offset, completion=done, flags=fua)
        elif kind < 0.09:
            self.handle.aio_flush(completion=lambda error: self.completed(0, 0, error))
        else:
            version = self.volume.sent(first, count)
            data = nbd.Buffer.from_bytearray(bytearray(stamp(version, first, count)))
            self.handle.aio_pwrite(data, offset, completion=done, flags=fua)

    def completed(self, first, count, error):
        error = error.value
        self.pending -= 1
        if error and error not in CONNECTION_BROKE:
            self.failure = f"{self.volume.name}: {os.strerror(error)} at sector {first}"
        if count > 0:
            self.volume.answered(first, count, not error)
        return 1


def write_until_killed(daemon, volumes, choices, seconds):
    writers = [Writer(daemon, volume, choices) for volume in volumes]
    killer = threading.Timer(seconds, daemon.process.kill)
    killer.start()
    deadline = time.monotonic() + seconds + 30
    poll = select.poll()
    live = {}
    for writer in writers:
        live[writer.handle.aio_get_fd()] = writer
    try:
        while live:
            assert time.monotonic() < deadline, "connections outlive their daemon"
            for fd, writer in list(live.items()):
                try:
                    writer.fill()
                except nbd.Error:
                    pass  # broken: found below
                if not writer.handle.aio_is_ready() and not writer.handle.aio_is_processing():
                    del live[fd]
                    continue
                direction = writer.handle.aio_get_direction()
                events = 0
                if direction & nbd.AIO_DIRECTION_READ:
                    events |= select.POLLIN
                if direction & nbd.AIO_DIRECTION_WRITE:
                    events |= select.POLLOUT
                poll.register(fd, events)
            for fd, _ in poll.poll(1000) if live else []:
                drive(live[fd].handle)
            for fd in live:
                poll.unregister(fd)
    finally:
        killer.join()
    daemon.kill()
    for writer in writers:
        assert writer.failure is None, writer.failure


def drive(handle):
    """Lets libnbd do what its socket is ready for, without waiting."""
    try:
        handle.poll(0)
    except nbd.Error:
        pass  # the connection broke: its state says so


def main():
    choices = random.Random(seed_from_environment())
    volumes = [StampedVolume(name, VOLUME_BYTES) for name in VOLUMES]
    with ConfiguredDaemon({"journal": {"size": "64M"}}) as daemon:
        for name, options in VOLUMES.items():
            daemon.squall("volume", "create", name, "--size", VOLUME_BYTES, *options)
        for number in range(ROUNDS):
            write_until_killed(daemon, volumes, choices, choices.uniform(0.02, 0.8))
            daemon.start()
            for volume in volumes:
                handle = daemon.nbd(volume.name)
                volume.check(read_all(handle, volume.size))
                handle.shutdown()
        status = daemon.json("status")
        for volume in volumes:
            print(f"{volume.name}: {volume.writes_acknowledged} writes acknowledged")
        print(f"{ROUNDS} kills; the pool holds {status['pool_bytes']} bytes")


if __name__ == "__main__":
    main()
