#!/usr/bin/python3
"""Hostile bytes do no harm: neither socket's client can bring the daemon down or make it grow.

Garbage, truncated handshakes, options of absurd lengths, requests of absurd sizes, requests cut off
in the middle, and connections that say nothing, at the NBD socket and at the control socket. A
well-behaved client on another connection must be served throughout.

SQUALL_HOSTILE_ROUNDS: how often each is repeated with other random bytes (30).
"""

import os
import random
import socket
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))

from crash_support import Daemon, seed_from_environment

ROUNDS = int(os.environ.get("SQUALL_HOSTILE_ROUNDS", "30"))
MIB = 1 << 20
GROWTH_BYTES_MAX = 96 * MIB
HALF_OPEN = 100

OPTION_MAGIC = 0x49484156454F5054
REQUEST_MAGIC = 0x25609513
EXPORT_NAME, ABORT, LIST, INFO, GO, STRUCTURED, LIST_META, SET_META = 1, 2, 3, 6, 7, 8, 9, 10
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZERO, STATUS = range(8)


def connect(path):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(20)
    client.connect(path)
    return client


def receive(client, size):
    data = b""
    while len(data) < size:
        more = client.recv(size - len(data))
        if not more:
            raise ConnectionError("closed")
        data += more
    return data


def option(number, payload=b"", length=None):
    return struct.pack(">QII", OPTION_MAGIC, number, len(payload) if length is None else length) + payload


def request(command, offset=0, length=0, flags=0, magic=REQUEST_MAGIC, payload=b""):
    return struct.pack(">IHHQQI", magic, flags, command, 0x1234, offset, length) + payload


def go_payload(name, count=0):
    return struct.pack(">I", len(name)) + name + struct.pack(">H", count)


def greeted(daemon):
    """A connection that has chosen fixed newstyle without the zeroes."""
    client = connect(daemon.nbd_socket)
    receive(client, 18)
    client.sendall(struct.pack(">I", 3))
    return client


def in_transmission(daemon, name=b"v"):
    client = greeted(daemon)
    client.sendall(option(GO, go_payload(name)))
    while True:
        _, _, kind, length = struct.unpack(">QIII", receive(client, 20))
        receive(client, length)
        if kind == 1:  # ACK
            return client
        assert kind == 3, f"GO refused: {kind:#x}"


def drain(client):
    """Reads until the server closes or has nothing more to say."""
    client.settimeout(0.2)
    try:
        while client.recv(1 << 16):
            pass
    except OSError:
        pass


def send(client, data):
    """The server may hang up in the middle, and is right to."""
    try:
        client.sendall(data)
    except OSError:
        pass


# Attacks: each takes the daemon and random choices, and leaves no connection open.


def garbage(daemon, choices):
    for path in (daemon.nbd_socket, daemon.control_socket):
        client = connect(path)
        send(client, choices.randbytes(choices.randint(1, 100_000)))
        client.close()


def garbage_options(daemon, choices):
    client = greeted(daemon)
    send(client, choices.randbytes(choices.randint(1, 5000)))
    client.close()


def garbage_requests(daemon, choices):
    client = in_transmission(daemon)
    send(client, choices.randbytes(choices.randint(1, 5000)))
    client.close()


def truncated_handshake(daemon, choices):
    client = connect(daemon.nbd_socket)
    whole = struct.pack(">I", 3) + option(STRUCTURED) + option(GO, go_payload(b"v"))
    send(client, whole[: choices.randrange(len(whole))])
    client.close()


def unknown_client_flags(daemon, choices):
    client = connect(daemon.nbd_socket)
    send(client, struct.pack(">I", choices.randrange(4, 1 << 32)))
    drain(client)
    client.close()


def absurd_option_lengths(daemon, choices):
    for number in (EXPORT_NAME, LIST, INFO, GO, STRUCTURED, LIST_META, SET_META, 77):
        client = greeted(daemon)
        length = choices.choice([0xFFFFFFFF, 0x7FFFFFFF, 1 << 20, (64 << 10) + 1, 5000])
        send(client, option(number, choices.randbytes(3000), length=length))
        client.close()


def lying_option_payloads(daemon, choices):
    client = greeted(daemon)
    send(client, option(GO, struct.pack(">I", 0xFFFFFFFF) + b"v\0\0"))
    send(client, option(INFO, go_payload(b"v", count=0xFFFF)))
    send(client, option(SET_META, struct.pack(">I", 1) + b"v" + struct.pack(">I", 0xFFFFFFFF)))
    send(client, option(LIST_META, struct.pack(">I", 0x80000000)))
    send(client, option(GO, go_payload(choices.randbytes(4096))))
    send(client, option(GO, b""))
    drain(client)
    client.close()


def endless_options(daemon, choices):
    client = greeted(daemon)
    send(client, option(LIST) * 3000)
    client.close()


def absurd_requests(daemon, choices):
    client = in_transmission(daemon)
    size = 64 * MIB
    for command in (READ, TRIM, CACHE, ZERO, STATUS, FLUSH, 99):
        for offset, length in [
            (0, 0xFFFFFFFF),
            ((1 << 64) - 1, 0xFFFFFFFF),
            ((1 << 64) - 4096, 8192),
            (size, 1),
            (size - 1, 2),
            (0, 0),
        ]:
            send(client, request(command, offset, length, flags=choices.randrange(1 << 16)))
    drain(client)
    client.close()


def oversized_write(daemon, choices):
    client = in_transmission(daemon)
    send(client, request(WRITE, 0, choices.choice([0xFFFFFFFF, 33 * MIB])) + bytes(MIB))
    client.close()


def cut_off_write(daemon, choices):
    client = in_transmission(daemon, b"w")
    # Beyond what anybody else here touches, and never complete: it must not be carried out.
    send(client, request(WRITE, 0, 8 * MIB) + b"\xff" * choices.randrange(1, 8 * MIB - 1))
    client.close()


def replies_not_taken(daemon, choices):
    """Asks for much and hangs up without having read a byte of it."""
    client = in_transmission(daemon)
    send(client, request(READ, 0, 32 * MIB) * choices.randint(1, 20))
    client.close()


def bad_magic_after_good_requests(daemon, choices):
    client = in_transmission(daemon)
    send(client, request(READ, 0, 4096) * 10 + request(READ, 0, 4096, magic=0xDEADBEEF))
    drain(client)
    client.close()


def bad_http(daemon, choices):
    for text in (
        b"GET / HTTP/1.1\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/volumes HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n{",
        b"POST /v1/volumes HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}",
        b"POST /v1/volumes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n",
        b"GET /v1/volumes/%00%ff%2e%2e HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PUT /v1/status HTTP/9.9\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
    ):
        client = connect(daemon.control_socket)
        send(client, text)
        drain(client)
        client.close()


def bad_json(daemon, choices):
    bodies = [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"name":' + b'"' + b"x" * 70_000 + b'"}',
        b'{"name":1,"size_bytes":"1"}',
        b'{"name":"n","size_bytes":-5}',
        b'{"name":"n","size_bytes":1e300}',
        b'{"name":"n","size_bytes":4096,"count":18446744073709551615}',
        b'{"name":"../../etc","size_bytes":4096}',
        b'{"name":"n\\u0000","size_bytes":4096}',
        choices.randbytes(1000),
    ]
    for body in bodies:
        client = connect(daemon.control_socket)
        head = f"POST /v1/volumes HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        send(client, head.encode() + body)
        client.settimeout(20)
        answer = client.recv(4096)
        assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), (body[:80], answer)
        client.close()


ATTACKS = [
    garbage,
    garbage_options,
    garbage_requests,
    truncated_handshake,
    unknown_client_flags,
    absurd_option_lengths,
    lying_option_payloads,
    endless_options,
    absurd_requests,
    oversized_write,
    cut_off_write,
    replies_not_taken,
    bad_magic_after_good_requests,
]
# Once each: they have no random part worth repeating, or they take long.
SINGLE_ATTACKS = [bad_http, bad_json]


def is_served(daemon, handle, number):
    data = struct.pack(">Q", number) * 512
    handle.pwrite(data, 0)
    assert bytes(handle.pread(4096, 0)) == data, "another client's write or stale data"


def main():
    choices = random.Random(seed_from_environment())
    with Daemon() as daemon:
        for name in ("v", "w", "good"):
            daemon.squall("volume", "create", name, "--size", "64M")
        good = daemon.nbd("good")
        good.pwrite(b"\x5a" * MIB, MIB)
        for attack in ATTACKS:  # memory that is kept for reuse counts before the comparison
            attack(daemon, choices)
        before = daemon.rss_bytes()
        half_open = [connect(daemon.nbd_socket) for _ in range(HALF_OPEN)]
        half_open += [connect(daemon.control_socket) for _ in range(HALF_OPEN)]
        half_open += [greeted(daemon) for _ in range(HALF_OPEN)]
        for attack in ATTACKS:
            for number in range(ROUNDS):
                attack(daemon, choices)
                assert daemon.is_running(), f"{attack.__name__} killed the daemon"
            is_served(daemon, good, number)
            print(f"{attack.__name__}: {daemon.rss_bytes() // MIB} MiB", flush=True)
        for attack in SINGLE_ATTACKS:
            attack(daemon, choices)
            is_served(daemon, good, 1)
        grown = daemon.rss_bytes() - before
        assert grown < GROWTH_BYTES_MAX, f"memory grew by {grown // MIB} MiB"
        for client in half_open:
            client.close()
        assert bytes(good.pread(MIB, MIB)) == b"\x5a" * MIB
        assert bytes(daemon.nbd("w").pread(8 * MIB, 0)) == bytes(8 * MIB), "half a write landed"
        assert len(daemon.json("volume", "list")) == 3
        open_files = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
        assert open_files < 200, f"{open_files} files are open"
        print(f"memory {before // MIB} MiB, grown by {grown // MIB} MiB; {open_files} open files")


if __name__ == "__main__":
    main()
