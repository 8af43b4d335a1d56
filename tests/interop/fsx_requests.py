"""The requests of fsx.py: what is read, written, zeroed and trimmed, one by one and in flight
together, on which volume and where."""

import os
import random
import select
import time

from support import MIB  # makes tests/lib importable

import nbd
from crash_support import SECTOR
from fsx_model import BLOCK, Request

SIZE_MAX = 9 * MIB


class Requests:
    """Chooses and does requests; `disks` maps names to the Disks there are."""

    def __init__(self, daemon, seed):
        self.daemon = daemon
        self.rng = random.Random(seed)
        self.disks = {}
        self.named = 0
        self.history = []

    # Choices.

    def note(self, text, name=None, first=0, last=1 << 62):
        if os.environ.get("SQUALL_FSX_LOG") == "1":
            print(f"{len(self.history)} {text}", flush=True)
        self.history.append((len(self.history), text, name, first, last))

    def new_name(self, kind):
        self.named += 1
        return f"{kind}{self.named}"

    def pick_disk(self, stateful=False):
        """A volume; None if there is none of that kind."""
        disks = [d for d in self.disks.values() if not (stateful and d.stateless)]
        return self.rng.choice(disks) if disks else None

    def pick_handle(self, disk):
        if not disk.handles:
            self.connect(disk)
        return self.rng.choice(disk.handles)

    def connect(self, disk):
        disk.connect(self.daemon, self.rng.choice((1, 1, 2, 3)))

    def pick_size(self):
        return self.rng.choice((1, 7, 8, 4096, self.rng.randint(1, SIZE_MAX // SECTOR),
                                self.rng.randint(4096, SIZE_MAX // SECTOR))) * SECTOR

    def pick_range(self, size):
        """Anything between a byte and a MiB; half of it on block boundaries."""
        unit = self.rng.choice((1, 1, SECTOR, BLOCK, BLOCK))
        length = self.rng.choice((1, 2, 16, 16, 64, 64, 256)) * self.rng.choice((SECTOR, BLOCK))
        length = max(1, self.rng.randint(1, length) // unit * unit)
        offset = self.rng.randrange(size) // unit * unit
        return offset, min(length, size - offset)

    def pick_data(self, disk, length):
        """Random bytes, bytes that compress, zeros, or a copy of what is elsewhere already."""
        kind = self.rng.random()
        if kind < 0.4:
            return self.rng.randbytes(length)
        if kind < 0.6:
            return (self.rng.randbytes(self.rng.choice((1, 7, 512))) * length)[:length]
        if kind < 0.65:
            return bytes(length)
        source = self.rng.choice(list(self.disks.values())).content
        at = self.rng.randrange(len(source)) // BLOCK * BLOCK
        data = bytes(source[at:at + length])
        return data + self.rng.randbytes(length - len(data))

    def pick_flags(self):
        return nbd.CMD_FLAG_FUA if self.rng.random() < 0.1 else 0

    # Requests, one at a time.

    def do_write(self):
        disk = self.pick_disk()
        handle = self.pick_handle(disk)
        offset, length = self.pick_range(disk.reach())
        data, flags = self.pick_data(disk, length), self.pick_flags()
        end = offset + length
        self.note(f"write {disk.name} {offset} {length} {flags}", disk.name, offset, end)
        handle.pwrite(data, offset, flags)
        disk.put(offset, data)

    def do_read(self):
        disk = self.pick_disk()
        handle = self.pick_handle(disk)
        offset, length = self.pick_range(disk.reach())
        self.note(f"read {disk.name} {offset} {length}", disk.name, offset, offset + length)
        disk.check(offset, bytes(handle.pread(length, offset)))

    def do_zero(self):
        disk = self.pick_disk()
        handle = self.pick_handle(disk)
        offset, length = self.pick_range(disk.reach())
        flags = self.pick_flags() | self.rng.choice((0, nbd.CMD_FLAG_NO_HOLE))
        self.note(f"zero {disk.name} {offset} {length} {flags}", disk.name, offset, offset + length)
        handle.zero(length, offset, flags)
        disk.put(offset, bytes(length))

    def do_trim(self):
        """Whole blocks read as zeros afterwards; the ends may stay as they were."""
        disk = self.pick_disk()
        handle = self.pick_handle(disk)
        offset, length = self.pick_range(disk.reach())
        flags = self.pick_flags()
        self.note(f"trim {disk.name} {offset} {length} {flags}", disk.name, offset, offset + length)
        handle.trim(length, offset, flags)
        end = offset + length
        first, last = -(-offset // BLOCK) * BLOCK, end // BLOCK * BLOCK
        if first < last:
            disk.put(first, bytes(last - first))
        for begin, stop in ((offset, min(first, end)), (max(last, offset), end)):
            if begin < stop:
                found = bytes(handle.pread(stop - begin, begin))
                if not any(found):
                    disk.put(begin, found)
                disk.check(begin, found)

    def do_flush(self):
        disk = self.pick_disk()
        handle = self.pick_handle(disk)
        self.note(f"flush {disk.name}")
        if handle.can_flush():
            handle.flush()

    def do_cache(self):
        disk = self.pick_disk()
        handle = self.pick_handle(disk)
        offset, length = self.pick_range(disk.reach())
        self.note(f"cache {disk.name} {offset} {length}")
        handle.cache(length, offset)

    def do_status(self):
        """Where block status says zeros, zeros are."""
        disk = self.pick_disk()
        handle = self.pick_handle(disk)
        size = disk.reach()
        self.note(f"status {disk.name}")
        extents = []

        def extent(_context, _offset, entries, _error):
            extents.extend(zip(entries[::2], entries[1::2]))

        at = 0
        while at < size:
            del extents[:]
            handle.block_status(size - at, at, extent)
            for length, flags in extents:
                end = min(at + length, size)
                if flags & nbd.STATE_ZERO:
                    disk.check(at, bytes(end - at))
                at = end

    def do_reopen(self):
        disk = self.pick_disk()
        self.note(f"reopen {disk.name}")
        disk.disconnect()
        self.connect(disk)

    # Requests in flight together.

    def pick_requests(self, disk, kinds):
        """Up to 24 whose ranges do not overlap: such have no order among them."""
        self.pick_handle(disk)
        size = disk.reach()
        requests = []
        for _ in range(self.rng.randint(2, 24)):
            offset, length = self.pick_range(size)
            if any(offset < r.end and r.offset < offset + length for r in requests):
                continue
            kind = self.rng.choice(kinds)
            if kind == "write":
                data = self.pick_data(disk, length)
            elif kind == "zero":
                data = bytes(length)
            else:
                data = bytes(disk.content[offset:offset + length])
            requests.append(Request(offset, data, kind, self.pick_handle(disk)))
        return requests

    def send(self, disk, requests):
        for request in requests:
            self.note(f"in flight: {request.kind} {disk.name} {request.offset} {len(request.data)}",
                      disk.name, request.offset, request.end)
            request.send(self.pick_flags())

    @staticmethod
    def drive(requests, until, timeout_s=60):
        """Lets libnbd work until the condition holds or every connection broke."""
        deadline = time.monotonic() + timeout_s
        handles = list({id(r.handle): r.handle for r in requests}.values())
        while not until():
            assert time.monotonic() < deadline, "requests are not answered"
            poll = select.poll()
            live = {}
            for handle in handles:
                if not handle.aio_is_ready() and not handle.aio_is_processing():
                    continue
                direction = handle.aio_get_direction()
                events = select.POLLIN if direction & nbd.AIO_DIRECTION_READ else 0
                events |= select.POLLOUT if direction & nbd.AIO_DIRECTION_WRITE else 0
                live[handle.aio_get_fd()] = handle
                poll.register(handle.aio_get_fd(), events)
            if not live:
                return
            for fd, _ in poll.poll(1000):
                try:
                    live[fd].poll(0)
                except nbd.Error:
                    pass  # the connection broke: its state says so

    def finish(self, disk, requests):
        """Waits for all; their writes are in the shadow then, their reads compared."""
        self.drive(requests, lambda: all(r.error is not None for r in requests))
        for request in requests:
            assert request.error == 0, f"{request.kind} at {request.offset}: {request.error}"
            if request.kind == "read":
                request.check_read(disk.name)
            else:
                disk.put(request.offset, request.data)

    def do_batch(self):
        disk = self.pick_disk()
        requests = self.pick_requests(disk, ("write", "write", "write", "zero", "read"))
        self.send(disk, requests)
        self.finish(disk, requests)
