#!/usr/bin/python3
"""Checks every NBD command and flag of a server against a model, through libnbd and, for what
libnbd refuses to send, through a plain socket.

usage: nbd_protocol.py [URI [READ_ONLY_URI]]    (or NBD_URI and NBD_IMAGE_URI)

URI names a writable export of at least 64 MiB on a unix socket, whose content is destroyed;
READ_ONLY_URI one that is always read-only. NBD_SEED and NBD_STEPS steer the random part.
"""
import errno
import os
import random
import socket
import struct
import sys
import urllib.parse

import nbd

MIB = 1 << 20
WINDOW = 16 * MIB
URI = sys.argv[1] if len(sys.argv) > 1 else os.environ["NBD_URI"]
READ_ONLY_URI = sys.argv[2] if len(sys.argv) > 2 else os.environ.get("NBD_IMAGE_URI")


def connect(uri=URI, strict=True, structured=True, context=True):
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    if context:
        h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    if not strict:
        h.set_strict_mode(0)
    h.connect_uri(uri)
    return h


def expect_error(wanted, function, *arguments):
    try:
        function(*arguments)
    except nbd.Error as error:
        assert error.errnum in (wanted if isinstance(wanted, tuple) else (wanted,)), error
        return
    raise AssertionError(f"{function} {arguments} should have failed with {wanted}")


def structured_read(h, count, offset, flags=0):
    """The bytes of a structured read, its chunks as (offset, length, kind)."""
    chunks = []

    def chunk(data, at, status, error):
        chunks.append((at, len(data), status))
        assert error.value == 0

    data = h.pread_structured(count, offset, chunk, flags)
    chunks.sort()
    at = offset
    for begin, length, _ in chunks:
        assert begin == at and length > 0, chunks
        at += length
    assert at == offset + count
    return data, chunks


def block_status(h, count, offset, flags=0):
    extents = []

    def extent(context, at, entries, error):
        assert context == nbd.CONTEXT_BASE_ALLOCATION and at == offset
        extents.extend(zip(entries[::2], entries[1::2]))

    h.block_status(count, offset, extent, flags)
    return extents


def check_handshake():
    h = connect()
    assert h.get_size() >= 64 * MIB
    assert h.get_protocol() == "newstyle-fixed"
    assert h.get_structured_replies_negotiated()
    for feature in ("fua", "df", "trim", "zero", "fast_zero", "cache", "multi_conn"):
        assert getattr(h, f"can_{feature}")(), feature
    assert not h.is_read_only()
    assert h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    assert (h.get_block_size(nbd.SIZE_MINIMUM), h.get_block_size(nbd.SIZE_PREFERRED),
            h.get_block_size(nbd.SIZE_MAXIMUM)) == (1, 4096, 32 * MIB)
    h.shutdown()

    h = connect(structured=False, context=False)
    assert not h.get_structured_replies_negotiated() and not h.can_df()
    assert h.pread(4096, 0) is not None
    h.shutdown()

    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_uri(URI)
    name = h.get_export_name()
    contexts = []
    h.opt_list_meta_context(contexts.append)
    assert contexts == ["base:allocation"], contexts
    names = []
    h.opt_list(lambda name, description: names.append(name))
    assert name in names
    h.set_export_name("no-such-export")
    expect_error(errno.ENOENT, h.opt_info)
    expect_error(errno.ENOENT, h.opt_go)
    h.set_export_name("")
    expect_error(errno.ENOENT, h.opt_go)
    h.set_export_name(name)
    h.set_full_info(True)
    h.opt_info()
    assert h.get_canonical_export_name() == name
    h.opt_go()
    assert h.pread(512, 0) is not None
    h.shutdown()

    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_uri(URI)
    h.opt_abort()


def check_read_only():
    if READ_ONLY_URI is None:
        return
    h = connect(READ_ONLY_URI, strict=False)
    assert h.is_read_only() and not h.can_trim() and not h.can_zero()
    for call in ((h.pwrite, b"x" * 512, 0), (h.trim, 512, 0), (h.zero, 512, 0),
                 (h.pwrite, b"", 0)):
        expect_error(errno.EPERM, *call)
    h.flush()
    before = h.pread(4096, 0)
    assert h.pread(4096, 0) == before
    h.cache(4096, 0)
    h.shutdown()


def check_writes():
    h = connect()
    fua = nbd.CMD_FLAG_FUA
    h.zero(WINDOW, 0)
    data = os.urandom(3 * MIB + 777)
    h.pwrite(data, 12345)
    assert h.pread(len(data), 12345) == data
    assert h.pread(12345, 0) == bytes(12345)
    h.pwrite(b"A" * 512, 512, fua)
    assert h.pread(1024, 512) == b"A" * 512 + bytes(512)
    h.zero(1000, 12345 + 100, fua)
    assert h.pread(1200, 12345) == data[:100] + bytes(1000) + data[1100:1200]
    h.zero(4096, 20480, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO | fua)
    assert h.pread(4096, 20480) == bytes(4096)
    h.trim(MIB, MIB, fua)
    assert set(h.pread(MIB, MIB)) <= set(data) | {0}
    h.cache(MIB, 0)
    if h.can_flush():
        h.flush()
    largest = os.urandom(MIB) * 32
    h.pwrite(largest, MIB)
    assert h.pread(32 * MIB, MIB) == largest
    assert structured_read(h, 32 * MIB, MIB, nbd.CMD_FLAG_DF)[0] == largest
    h.zero(h.get_size(), 0)
    assert h.pread(32 * MIB, MIB) == bytes(32 * MIB)
    h.shutdown()


def check_sparse():
    h = connect()
    h.zero(WINDOW, 0)
    h.pwrite(b"D" * (64 << 10), MIB)
    data, chunks = structured_read(h, 2 * MIB, 0)
    assert data == bytes(MIB) + b"D" * (64 << 10) + bytes(MIB - (64 << 10))
    kinds = [(length, status) for _, length, status in chunks]
    assert kinds == [(MIB, nbd.READ_HOLE), (64 << 10, nbd.READ_DATA),
                     (MIB - (64 << 10), nbd.READ_HOLE)], kinds
    data, chunks = structured_read(h, 2 * MIB, 0, nbd.CMD_FLAG_DF)
    assert len(chunks) == 1 and chunks[0][2] == nbd.READ_DATA
    data, chunks = structured_read(h, MIB, 0, nbd.CMD_FLAG_DF)
    assert chunks == [(0, MIB, nbd.READ_HOLE)]
    # The corners of the runs, byte by byte.
    for offset, count in ((MIB - 1, 2), (MIB - 1, 1), (MIB + (64 << 10) - 1, 2), (5, 1)):
        assert structured_read(h, count, offset)[0] == h.pread(count, offset)

    hole = nbd.STATE_HOLE | nbd.STATE_ZERO
    extents = block_status(h, 2 * MIB, 0)
    assert extents == [(MIB, hole), (64 << 10, 0), (MIB - (64 << 10), hole)], extents
    assert block_status(h, 2 * MIB, 0, nbd.CMD_FLAG_REQ_ONE) == [(MIB, hole)]
    assert block_status(h, 4096, MIB + 100) == [(4096, 0)]
    assert block_status(h, 1, 0) == [(1, hole)]
    for flags in (0, nbd.CMD_FLAG_REQ_ONE):
        at = 0
        while at < WINDOW:
            extents = block_status(h, WINDOW - at, at, flags)
            assert extents and (not flags or len(extents) == 1)
            at += sum(length for length, _ in extents)
        assert at == WINDOW
    h.shutdown()


def check_status_by_sectors():
    """A sector is never zeros and data at once, however the data lie: qemu-img counts in sectors
    and would lose what stands beside zeros."""
    h = connect()
    h.zero(WINDOW, 0)
    rng = random.Random(3)
    for _ in range(60):
        count = rng.choice((1, 100, 511, 513, 4097, 30000))
        h.pwrite(b"S" * count, rng.randrange(WINDOW - count))
    for _ in range(20):
        count = rng.choice((1, 511, 5000))
        h.zero(count, rng.randrange(WINDOW - count))
    content = h.pread(WINDOW, 0)
    for flags in (0, nbd.CMD_FLAG_REQ_ONE):
        at = 0
        while at < WINDOW:
            for length, state in block_status(h, WINDOW - at, at, flags):
                if state & nbd.STATE_ZERO:
                    assert at % 512 == 0 and length % 512 == 0, (at, length)
                    assert not any(content[at:at + length]), (at, length)
                at += length
    h.shutdown()


def check_refusals():
    h = connect(strict=False)
    size = h.get_size()
    h.pwrite(b"last", size - 4)
    assert h.pread(4, size - 4) == b"last"
    for offset in (size - 511, size, size + 1, (1 << 63) - 512, (1 << 64) - 512):
        expect_error(errno.EINVAL, h.pread, 512, offset)
        expect_error(errno.ENOSPC, h.pwrite, b"x" * 512, offset)
        expect_error(errno.ENOSPC, h.zero, 512, offset)
        expect_error(errno.EINVAL, h.trim, 512, offset)
        expect_error(errno.EINVAL, h.cache, 512, offset)
        expect_error(errno.EINVAL, block_status, h, 512, offset)
    for flag in (1 << 5, 1 << 15, nbd.CMD_FLAG_REQ_ONE):
        expect_error(errno.EINVAL, h.pread_structured, 512, 0, lambda *chunk: None, flag)
        expect_error(errno.EINVAL, h.pwrite, b"x" * 512, 0, flag)
        expect_error(errno.EINVAL, h.trim, 512, 0, flag)
    expect_error(errno.EINVAL, h.zero, 512, 0, nbd.CMD_FLAG_DF)
    expect_error(errno.EINVAL, block_status, h, 512, 0, nbd.CMD_FLAG_DF)
    expect_error(errno.EINVAL, block_status, h, 0, 0)
    expect_error(errno.EINVAL, h.pread, 32 * MIB + 1, 0)
    # Where nothing is asked for, nothing happens.
    assert h.pread(0, 0) == b""
    h.pwrite(b"", 0)
    h.trim(0, 0)
    h.zero(0, 0)
    h.cache(0, 0)
    assert h.pread(4, size - 4) == b"last"
    h.shutdown()
    h = connect(strict=False, context=False)
    expect_error((errno.EINVAL, errno.ENOTSUP), block_status, h, 512, 0)
    h.shutdown()


def check_random(seed, steps):
    """Random commands of any alignment against a bytearray."""
    rng = random.Random(seed)
    h, other = connect(), connect(structured=False, context=False)
    h.zero(WINDOW, 0)
    model = bytearray(WINDOW)
    for _ in range(steps):
        size = rng.choice((1, 511, 512, 4096, 5000, 65536, 200000))
        count = rng.randint(1, size)
        unit = rng.choice((1, 512, 4096))
        offset = min(rng.randrange(WINDOW) // unit * unit, WINDOW - count)
        flags = rng.choice((0, nbd.CMD_FLAG_FUA))
        command = rng.choice(("write", "write", "read", "read", "zero", "trim", "flush", "status"))
        client = rng.choice((h, other))  # one disk, whichever connection
        if command == "write":
            data = rng.randbytes(count)
            client.pwrite(data, offset, flags)
            model[offset:offset + count] = data
        elif command == "zero":
            client.zero(count, offset, flags | rng.choice((0, nbd.CMD_FLAG_NO_HOLE)))
            model[offset:offset + count] = bytes(count)
        elif command == "trim":
            client.trim(count, offset, flags)
            now = client.pread(count, offset)
            old = model[offset:offset + count]
            assert all(a in (b, 0) for a, b in zip(now, old))
            model[offset:offset + count] = now
        elif command == "flush" and client.can_flush():
            client.flush()
        elif command == "status":
            at = offset
            for length, state in block_status(h, count, offset):
                if state & nbd.STATE_ZERO:
                    end = min(at + length, WINDOW)
                    assert not any(model[at:end]), (at, length)
                at += length
        else:
            assert client.pread(count, offset) == model[offset:offset + count], (offset, count)
            data, _ = structured_read(h, count, offset, rng.choice((0, nbd.CMD_FLAG_DF)))
            assert data == model[offset:offset + count], (offset, count)
    assert h.pread(WINDOW, 0) == model
    h.shutdown()
    other.shutdown()


def check_pipelining():
    """Many requests in flight, more than the server takes at once."""
    h = connect()
    block = 8192
    blocks = {i: os.urandom(block) for i in range(1024)}
    for i, data in blocks.items():
        h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), i * block)
    while h.aio_in_flight() > 0:
        h.poll(-1)
    buffers = {i: nbd.Buffer(block) for i in blocks}
    cookies = [h.aio_pread(buffers[i], i * block) for i in blocks]
    while h.aio_in_flight() > 0:
        h.poll(-1)
    assert all(h.aio_command_completed(cookie) for cookie in cookies)
    assert all(buffers[i].to_bytearray() == blocks[i] for i in blocks)
    h.shutdown()


class Raw:
    """A connection in transmission phase, spoken to byte by byte."""

    REQUEST = struct.Struct(">IHHQQI")

    def __init__(self):
        query = urllib.parse.parse_qs(urllib.parse.urlparse(URI).query)
        name = urllib.parse.unquote(urllib.parse.urlparse(URI).path[1:]).encode()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(query["socket"][0])
        magic, option_magic, flags = struct.unpack(">QQH", self.receive(18))
        assert magic == 0x4e42444d41474943 and option_magic == 0x49484156454f5054 and flags == 3
        self.socket.sendall(struct.pack(">I", 3))
        self.socket.sendall(struct.pack(">QII", option_magic, 1, len(name)) + name)
        self.size, self.flags = struct.unpack(">QH", self.receive(10))

    def receive(self, count):
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("closed")
            data += piece
        return data

    def send(self, command, offset=0, length=0, flags=0, payload=b"", magic=0x25609513):
        self.socket.sendall(self.REQUEST.pack(magic, flags, command, 77, offset, length) + payload)

    def reply(self, read=0):
        magic, error, cookie = struct.unpack(">IIQ", self.receive(16))
        assert magic == 0x67446698 and cookie == 77
        return (error, self.receive(read)) if error == 0 and read else error

    def expect_closed(self):
        try:
            assert self.socket.recv(1) == b""
        except ConnectionResetError:
            pass


def check_malformed():
    raw = Raw()
    raw.send(99)
    assert raw.reply() == errno.EINVAL
    raw.send(3, length=1)
    assert raw.reply() == errno.EINVAL
    raw.send(0, length=512, flags=4)  # DF without structured replies
    assert raw.reply() == errno.EINVAL
    raw.send(1, length=4096, flags=0x80, payload=b"x" * 4096)  # its payload must be skipped
    assert raw.reply() == errno.EINVAL
    raw.send(1, length=33 * MIB, payload=bytes(33 * MIB))
    assert raw.reply() == errno.EINVAL
    raw.send(1, offset=0, length=6, payload=b"intact")
    assert raw.reply() == 0
    raw.send(0, offset=0, length=6)
    assert raw.reply(read=6) == (0, b"intact")
    raw.send(1, length=0xffffffff)
    raw.expect_closed()

    raw = Raw()
    raw.send(0, length=512, magic=0x25609514)
    raw.expect_closed()

    raw = Raw()
    raw.send(2)
    raw.expect_closed()

    for cut in (1, 27, 28, 28 + 4095):  # half-sent requests
        raw = Raw()
        request = Raw.REQUEST.pack(0x25609513, 0, 1, 77, 0, 4096) + b"Z" * 4096
        raw.socket.sendall(request[:cut])
        raw.socket.close()
    raw = Raw()
    raw.send(0, offset=0, length=6)
    assert raw.reply(read=6) == (0, b"intact")
    raw.socket.close()


def main():
    seed = int(os.environ.get("NBD_SEED", "1"))
    steps = int(os.environ.get("NBD_STEPS", "1500"))
    for check, *arguments in ((check_handshake,), (check_read_only,), (check_writes,),
                              (check_sparse,), (check_status_by_sectors,), (check_refusals,),
                              (check_random, seed, steps),
                              (check_pipelining,), (check_malformed,)):
        check(*arguments)
        print(f"{check.__name__}: ok", flush=True)


if __name__ == "__main__":
    main()
