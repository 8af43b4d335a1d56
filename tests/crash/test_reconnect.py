#!/usr/bin/python3
"""Clients that outlive a daemon, and daemons that outlive a client.

A daemon is killed, or told to stop, under QEMU's NBD client with requests outstanding: after the
restart they are resent and answered, and every write is there. A writing client is killed with many requests in
flight: once the next client writes, nothing of the dead one may land any more. On TCP, where
nobody can tell a dead client from a quiet one, the same holds for a client that still lives.

SQUALL_ROUNDS: rounds of each (8). SQUALL_SEED: repeats the choices of a run.
"""

import os
import random
import select
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))

import nbd
from crash_support import ConfiguredDaemon, read_all, seed_from_environment

ROUNDS = int(os.environ.get("SQUALL_ROUNDS", "8"))
MIB = 1 << 20
BLOCK = 64 << 10
VOLUME_BYTES = 16 * MIB
CONNECTIONS = 3

VOLUMES = {
    "writeback": ["--cache", "writeback"],
    "directsync": ["--cache", "directsync"],
    "pool": ["--durability", "pool"],
    "stateless": ["--stateless"],
}


# QEMU's client over a restart.


def qemu_io(daemon, volume):
    image = (
        f"driver=nbd,server.type=unix,server.path={daemon.nbd_socket},export={volume},"
        "reconnect-delay=60"
    )
    client = subprocess.Popen(
        ["qemu-io", "-t", "writeback", "--image-opts", image],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    client.stdin.write("length\n")
    client.stdin.flush()
    answer = client.stdout.readline()  # it is connected
    assert "MiB" in answer, answer
    return client


def outlive_daemon(daemon, volume, choices):
    """Writes go on over a kill or a stop, and a start; all of them succeed and are there."""
    client = qemu_io(daemon, volume)
    patterns = {}

    def write_some(count):
        for _ in range(count):
            block = choices.randrange(VOLUME_BYTES // BLOCK)
            if block in patterns:
                continue  # writes that overlap in flight have no order
            patterns[block] = choices.randint(1, 255)
            client.stdin.write(f"aio_write -q -P {patterns[block]} {block * BLOCK} {BLOCK}\n")
        client.stdin.flush()

    write_some(60)
    time.sleep(choices.uniform(0, 0.02))
    daemon.kill() if choices.random() < 0.6 else daemon.stop()
    write_some(20)
    time.sleep(0.1)
    daemon.start()
    write_some(20)
    output, _ = client.communicate("aio_flush\nflush\nquit\n", timeout=60)
    assert client.returncode == 0 and "rror" not in output, output
    handle = daemon.nbd(volume)
    content = read_all(handle, VOLUME_BYTES)
    handle.shutdown()
    for block, pattern in patterns.items():
        data = content[block * BLOCK : (block + 1) * BLOCK]
        assert data == bytes([pattern]) * BLOCK, f"{volume}: block {block} is not what was written"


# A dead client against the next one.


def flood(connect, ready):
    """In a process of its own: requests in flight until somebody ends it."""
    handles = [connect() for _ in range(CONNECTIONS)]
    old = nbd.Buffer.from_bytearray(bytearray(b"\xaa" * BLOCK))
    blocks = VOLUME_BYTES // BLOCK
    pending = [0] * len(handles)
    sent = 0
    while True:
        for i, handle in enumerate(handles):
            while pending[i] < 100:
                pending[i] += 1

                def done(error, i=i):
                    pending[i] -= 1
                    return 1

                handle.aio_pwrite(old, (sent % blocks) * BLOCK, completion=done)
                sent += 1
            handle.poll(0)
        if sent > 3 * CONNECTIONS * 100 and ready is not None:
            os.write(ready, b"r")
            ready = None


def start_flood(connect):
    """Returns the pid of a client with many writes in flight."""
    receive, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            flood(connect, ready)
        except BaseException as error:
            os.write(ready, str(error).encode())
        finally:
            os._exit(1)
    os.close(ready)
    assert select.select([receive], [], [], 30)[0], "the flooding client does not get going"
    said = os.read(receive, 1000)
    os.close(receive)
    assert said == b"r", said
    return pid


def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def write_new_over(handle):
    """Every block, acknowledged, and looked at again a moment later."""
    new = b"\xbb" * MIB
    assert not handle.is_read_only(), "the next client does not get to write"
    for at in range(0, VOLUME_BYTES, MIB):
        handle.pwrite(new, at)
    for wait_s in (0, 0.05):
        time.sleep(wait_s)
        content = read_all(handle, VOLUME_BYTES)
        wrong = [at for at in range(0, VOLUME_BYTES, BLOCK) if content[at] != 0xBB]
        assert not wrong, f"a dead client's write landed later, at {wrong[:5]}"


def replace_killed_client(daemon, volume, choices):
    pid = start_flood(lambda: daemon.nbd(volume))
    time.sleep(choices.uniform(0, 0.02))
    end(pid)
    handle = daemon.nbd(volume)
    write_new_over(handle)
    handle.shutdown()


def second_client_reads_only(daemon, volume):
    pid = start_flood(lambda: daemon.nbd(volume))
    other = daemon.nbd(volume)
    assert other.is_read_only(), "two clients write one volume"
    other.pread(BLOCK, 0)
    other.shutdown()
    end(pid)


def tcp(port, volume):
    handle = nbd.NBD()
    handle.set_export_name(volume)
    handle.connect_tcp("127.0.0.1", port)
    return handle


def replace_live_client_on_tcp(port, volume):
    global CONNECTIONS
    CONNECTIONS = 1  # one on TCP
    pid = start_flood(lambda: tcp(port, volume))
    handle = tcp(port, volume)
    write_new_over(handle)
    handle.shutdown()
    end(pid)
    CONNECTIONS = 3


def tcp_port(daemon):
    (address,) = daemon.json("status")["node"]["nbd_listen"]
    return address.rsplit(":", 1)[1]


def main():
    choices = random.Random(seed_from_environment())
    settings = {"journal": {"size": "64M"}, "nbd": {"listen": ["127.0.0.1:0"]}}
    with ConfiguredDaemon(settings) as daemon:
        for name, options in VOLUMES.items():
            daemon.squall("volume", "create", name, "--size", VOLUME_BYTES, *options)
        names = list(VOLUMES)
        for number in range(ROUNDS):
            outlive_daemon(daemon, names[number % len(names)], choices)
        port = tcp_port(daemon)
        for number in range(ROUNDS):
            replace_killed_client(daemon, names[number % len(names)], choices)
            replace_live_client_on_tcp(port, names[number % len(names)])
        second_client_reads_only(daemon, "writeback")
        print(f"{ROUNDS} rounds of each")


if __name__ == "__main__":
    main()
