"""Writers of stamped blocks over libnbd, and what a snapshot taken under them must hold."""

import errno
import os
import select
import time

import nbd
from crash_support import BLOCK, SECTOR, STAMP, stamp

DEPTH = 12
# What libnbd reports for requests that were outstanding when the daemon died.
CONNECTION_BROKE = (errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE)


class Writer:
    """Keeps DEPTH requests in flight on one StampedVolume until its connection breaks."""

    def __init__(self, daemon, volume, choices):
        self.volume = volume
        self.choices = choices
        self.handle = daemon.nbd(volume.name)
        self.handle.set_strict_mode(0)
        self.pending = 0
        self.failure = None
        self.watch = None  # a SnapshotWatch, told of every write

    def fill(self):
        for _ in range(DEPTH - self.pending):  # answers may come in meanwhile: not without end
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
        offset, length = first * SECTOR, count * SECTOR
        self.pending += 1
        if 0.07 <= kind < 0.09:
            self.handle.aio_flush(completion=lambda error: self.completed(0, 0, error))
            return
        is_trim = 0.05 <= kind < 0.07 and offset % BLOCK == 0 and length % BLOCK == 0
        is_zero = is_trim or kind < 0.05
        version = self.volume.sent(first, count, zero=is_zero)
        token = self.watch.sent(first, count, version) if self.watch is not None else None
        done = lambda error: self.completed(first, count, error, token)
        if is_trim:
            self.handle.aio_trim(length, offset, completion=done, flags=fua)
        elif is_zero:
            self.handle.aio_zero(length, offset, completion=done, flags=fua)
        else:
            data = nbd.Buffer.from_bytearray(bytearray(stamp(version, first, count)))
            self.handle.aio_pwrite(data, offset, completion=done, flags=fua)

    def completed(self, first, count, error, token=None):
        error = error.value
        self.pending -= 1
        if error and error not in CONNECTION_BROKE:
            self.failure = f"{self.volume.name}: {os.strerror(error)} at sector {first}"
        if count > 0:
            self.volume.answered(first, count, not error)
        if token is not None and not error:
            token.answered()
        return 1

    def is_connected(self):
        return self.handle.aio_is_ready() or self.handle.aio_is_processing()


def write_until_killed(writers, tick=lambda: None, timeout_s=60):
    """Drives all writers until their daemon is gone; `tick` is called now and then."""
    deadline = time.monotonic() + timeout_s
    live = {writer.handle.aio_get_fd(): writer for writer in writers}
    poll = select.poll()
    while live:
        assert time.monotonic() < deadline, "connections outlive their daemon"
        tick()
        for fd, writer in list(live.items()):
            try:
                writer.fill()
            except nbd.Error:
                pass  # broken: found below
            if not writer.is_connected():
                del live[fd]
                continue
            direction = writer.handle.aio_get_direction()
            events = select.POLLIN if direction & nbd.AIO_DIRECTION_READ else 0
            events |= select.POLLOUT if direction & nbd.AIO_DIRECTION_WRITE else 0
            poll.register(fd, events)
        for fd, _ in poll.poll(1000) if live else []:
            drive(live[fd].handle)
        for fd in live:
            poll.unregister(fd)
    for writer in writers:
        assert writer.failure is None, writer.failure


def drive(handle):
    """Lets libnbd do what its socket is ready for, without waiting."""
    try:
        handle.poll(0)
    except nbd.Error:
        pass  # the connection broke: its state says so


class SnapshotWatch:
    """What a snapshot may hold that is taken while its volume is written: all that was acknowledged
    before it was asked for, nothing that was sent after it was there, and of the rest some, but
    never a write without those that were acknowledged before that write was sent."""

    class Write:
        def __init__(self, watch, first, count, version):
            self.watch = watch
            self.first = first
            self.count = count
            self.version = version
            self.sent_at = watch.now()
            self.answered_at = None

        def answered(self):
            self.answered_at = self.watch.now()

    def __init__(self, writer):
        volume = writer.volume
        self.name = volume.name
        self.size = volume.size
        self.clock = 0
        self.baseline = list(volume.acknowledged)
        self.in_flight = dict(volume.in_flight)  # may be in it; their answers are not awaited
        self.writes = []
        self.is_open = True
        self.writer = writer
        writer.watch = self

    def now(self):
        self.clock += 1
        return self.clock

    def sent(self, first, count, version):
        write = self.Write(self, first, count, version)
        self.writes.append(write)
        return write

    def close(self):
        """The snapshot is there: what is sent from now on is not in it."""
        self.writer.watch = None
        self.is_open = False

    def check(self, content):
        assert len(content) == self.size, f"snapshot of {self.name}: {len(content)} bytes"
        lines = {}  # sector -> its writes, oldest first
        for write in self.writes:
            for sector in range(write.first, write.first + write.count):
                lines.setdefault(sector, []).append(write)
        newest_sent_at = 0
        for sector, expected in enumerate(self.baseline):
            data = content[sector * SECTOR : (sector + 1) * SECTOR]
            if holds(data, sector, expected) or holds(data, sector, self.in_flight.get(sector)):
                continue
            matching = [w for w in lines.get(sector, ()) if holds(data, sector, w.version)]
            assert matching, f"snapshot of {self.name}: sector {sector} holds what it may not"
            newest_sent_at = max(newest_sent_at, matching[0].sent_at)
        for sector, writes in lines.items():
            data = content[sector * SECTOR : (sector + 1) * SECTOR]
            due = [w for w in writes if w.answered_at and w.answered_at < newest_sent_at]
            if due:
                allowed = writes[writes.index(due[-1]) :]
                assert any(holds(data, sector, w.version) for w in allowed), (
                    f"snapshot of {self.name}: sector {sector} lacks version {due[-1].version}, "
                    f"acknowledged before another one was sent that is there"
                )


def holds(data, sector, version):
    if version is None:
        return False
    return data == (STAMP.pack(version, sector) * 32 if version else bytes(SECTOR))
