"""What fsx.py knows of each export: the bytes it must hold, and how to say what is wrong."""

import nbd

from crash_support import SECTOR

BLOCK = 4096


class WrongData(AssertionError):
    """An export does not hold what its history says. `name`, `first` and `last` say where."""

    def __init__(self, name, first, last, message):
        super().__init__(message)
        self.name = name
        self.first = first
        self.last = last


def expect_equal(name, offset, found, expected):
    """Raises WrongData with the first difference. Both are what was read, or should be, at
    `offset`."""
    if found == expected:
        return
    if len(found) != len(expected):
        raise WrongData(name, offset, offset + len(expected),
                        f"{name}: {len(found)} bytes at {offset}, not {len(expected)}")
    wrong = [i for i in range(len(found)) if found[i] != expected[i]]
    first, last = offset + wrong[0], offset + wrong[-1]
    at = wrong[0]
    raise WrongData(name, first, last, (
        f"{name}: {len(wrong)} wrong bytes from {first} to {last} of [{offset}, "
        f"{offset + len(found)}): {describe(found[at:at + 16])}, expected "
        f"{describe(expected[at:at + 16])}"))


def describe(data):
    return "zeros" if not any(data) else data.hex(" ", 4)


class Request:
    """A write, zero or read in flight. `data` is what its range holds once it is done."""

    def __init__(self, offset, data, kind, handle):
        self.offset = offset
        self.data = data
        self.kind = kind
        self.handle = handle
        self.error = None  # until answered; 0 is success
        self.buffer = None

    @property
    def end(self):
        return self.offset + len(self.data)

    def send(self, flags):
        if self.kind == "write":
            buffer = nbd.Buffer.from_bytearray(bytearray(self.data))
            self.handle.aio_pwrite(buffer, self.offset, completion=self.done, flags=flags)
        elif self.kind == "zero":
            self.handle.aio_zero(len(self.data), self.offset, completion=self.done, flags=flags)
        else:
            self.buffer = nbd.Buffer(len(self.data))
            self.handle.aio_pread(self.buffer, self.offset, completion=self.done)

    def done(self, error):
        self.error = error.value
        return 1

    def check_read(self, name):
        expect_equal(name, self.offset, bytes(self.buffer.to_bytearray()), self.data)


class Disk:
    """A volume: its content and the connections to it."""

    def __init__(self, name, content, options):
        self.name = name
        self.content = bytearray(content)
        self.stateless = "--stateless" in options
        self.handles = []
        self.snapshots = []  # their names, without the volume's

    def __len__(self):
        return len(self.content)

    def connect(self, daemon, count):
        self.disconnect()
        self.handles = [daemon.nbd(self.name) for _ in range(count)]
        for handle in self.handles:
            handle.set_strict_mode(handle.get_strict_mode() & ~nbd.STRICT_FLAGS)
            size = handle.get_size()
            if size != len(self):
                raise WrongData(self.name, 0, size, f"{self.name}: {size} bytes, not {len(self)}")

    def disconnect(self):
        for handle in self.handles:
            handle.shutdown()
        self.drop()

    def drop(self):
        """Also when the daemon is gone, and the connections with it."""
        self.handles = []

    def reach(self):
        """What the present connections can address: they keep the size they were opened with."""
        return min(handle.get_size() for handle in self.handles)

    def put(self, offset, data):
        self.content[offset:offset + len(data)] = data

    def resize(self, size):
        """What is cut off is gone for good."""
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))

    def check(self, offset, found):
        expect_equal(self.name, offset, found, bytes(self.content[offset:offset + len(found)]))


def settle(name, found, content, requests):
    """`found` is `content` with each sector of each request done or not done: what a kill, or a
    snapshot taken meanwhile, makes of requests that were not answered. Raises WrongData unless so;
    returns what is there."""
    result = bytearray(content)
    for request in requests:
        at = request.offset
        while at < request.end:
            end = min(request.end, (at // SECTOR + 1) * SECTOR)
            new = request.data[at - request.offset:end - request.offset]
            if found[at:end] == new:
                result[at:end] = new
            at = end
    expect_equal(name, 0, found, bytes(result))
    return result
