#!/usr/bin/python3
"""What is dead stays dead: a request of a connection or a daemon that is gone never lands after a
newer acknowledged write, and of two who fight for a volume or a pool one wins.

SQUALL_ROUNDS: how often each kind of ghost is tried (5); hundreds in the long run.
"""

import ctypes
import errno
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))

import nbd
from crash_support import BLOCK, ConfiguredDaemon, is_root, seed_from_environment
from raw_nbd import FLUSH, WRITE, RawNbd
from squall_daemon import binary

ROUNDS = int(os.environ.get("SQUALL_ROUNDS", "5"))
MIB = 1 << 20
OLD, NEW = b"\x0d" * BLOCK, b"\xed" * BLOCK
BLOCKS = 64


def settings(**more):
    return {"journal": {"size": "64M"}, **more}


def tcp_daemon(**nbd_settings):
    return ConfiguredDaemon(settings(nbd={"listen": ["127.0.0.1:0"], **nbd_settings}))


def tcp_port(daemon):
    return int(daemon.json("node", "list")[0]["nbd_listen"][0].rsplit(":", 1)[1])


def expect(daemon, export, blocks, content):
    handle = daemon.nbd(export)
    for block in blocks:
        found = bytes(handle.pread(BLOCK, block * BLOCK))
        assert found == content, f"block {block} of {export} holds {found[:4].hex()}..."
    handle.shutdown()


# ---- requests of dead connections ----


def unread_in_a_unix_socket(choices):
    """A process writes, dies with its requests unread, and another one writes to the same place."""
    with ConfiguredDaemon(settings()) as daemon:
        daemon.squall("volume", "create", "v", "--size", "16M")
        for number in range(ROUNDS):
            sent, go = os.pipe()
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    client = RawNbd.unix(daemon.nbd_socket, "v")
                    status = 0 if client.may_write else 2
                    daemon.process.send_signal(signal.SIGSTOP)
                    for block in range(BLOCKS // 2):
                        client.send(WRITE, block * BLOCK, OLD)
                    os.write(go, b"x")
                    if number % 2:
                        signal.pause()
                finally:
                    os._exit(status)
            assert os.read(sent, 1) == b"x"
            os.close(sent), os.close(go)
            if number % 2:
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            threading.Timer(choices.random() * 0.02, daemon.process.send_signal, [signal.SIGCONT]).start()
            client = RawNbd.unix(daemon.nbd_socket, "v")
            assert client.may_write, "the dead client still holds the volume"
            for block in range(BLOCKS // 2):
                assert client.write(block * BLOCK, NEW) == 0
            assert client.flush() == 0
            client.close()
            expect(daemon, "v", range(BLOCKS // 2), NEW)
        daemon.restart(crash=True)
        expect(daemon, "v", range(BLOCKS // 2), NEW)
    print(f"unread in a unix socket: {ROUNDS} rounds", flush=True)


class Delay:
    """A TCP connection to the daemon through a network that can hold back what was sent."""

    def __init__(self, port):
        self.to_server = socket.create_connection(("127.0.0.1", port))
        self.client, self.inner = socket.socketpair()
        self.inner.settimeout(0.02)
        self.to_server.settimeout(0.02)
        self.held = threading.Event()
        self.stop = threading.Event()
        self.kept = b""
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.stop.is_set():
            for source, target in ((self.inner, self.to_server), (self.to_server, self.inner)):
                try:
                    data = source.recv(65536)
                except TimeoutError:
                    continue
                except OSError:
                    return
                if source is self.inner and self.held.is_set():
                    self.kept += data
                elif data:
                    target.settimeout(5)
                    target.sendall(data)
                    target.settimeout(0.02)

    def hold(self):
        self.held.set()

    def deliver(self):
        """What was held back arrives at the server's host, late."""
        self.stop.set()
        self.thread.join()
        try:
            self.to_server.settimeout(5)
            self.to_server.sendall(self.kept)
        except OSError:
            pass  # the server has closed this connection long ago: as it should
        return len(self.kept)

    def close(self):
        self.stop.set()
        self.thread.join()
        for end in (self.client, self.inner, self.to_server):
            end.close()


def late_over_tcp(choices):
    """Requests delayed by the network arrive when their client has long connected anew."""
    with tcp_daemon() as daemon:
        daemon.squall("volume", "create", "v", "--size", "16M")
        port = tcp_port(daemon)
        for _ in range(ROUNDS):
            delay = Delay(port)
            dead = RawNbd(delay.client, "v")
            assert dead.may_write
            assert dead.write(0, OLD) == 0
            delay.hold()
            for block in range(8):
                dead.send(WRITE, block * BLOCK, OLD)
            alive = RawNbd.tcp("127.0.0.1", port, "v")
            assert alive.may_write, "the client's own dead connection keeps it from writing"
            for block in range(8):
                assert alive.write(block * BLOCK, NEW) == 0
            time.sleep(choices.random() * 0.05)
            assert delay.deliver() >= 8 * BLOCK
            time.sleep(0.05)
            assert alive.flush() == 0
            for block in range(8):
                assert alive.read(block * BLOCK, BLOCK) == NEW, "a ghost has landed"
            alive.close()
            delay.close()
        expect(daemon, "v", range(8), NEW)
    print(f"late over TCP: {ROUNDS} rounds", flush=True)


class OtherHost:
    """A network namespace with an address of its own, whose cable can be pulled."""

    def __init__(self):
        self.name = f"sq{os.getpid()}"
        self.inside, self.outside = f"{self.name}i", f"{self.name}o"

    def __enter__(self):
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self.outside, "type", "veth", "peer", "name", self.inside)
        run("ip", "link", "set", self.inside, "netns", self.name)
        run("ip", "address", "add", "10.213.77.1/30", "dev", self.outside)
        run("ip", "link", "set", self.outside, "up")
        run("ip", "-n", self.name, "address", "add", "10.213.77.2/30", "dev", self.inside)
        run("ip", "-n", self.name, "link", "set", self.inside, "up")
        return self

    def __exit__(self, *_):
        run("ip", "netns", "del", self.name)

    def pull_cable(self):
        run("ip", "-n", self.name, "link", "set", self.inside, "down")

    def plug_in(self):
        run("ip", "-n", self.name, "link", "set", self.inside, "up")

    def connect(self, port, export):
        """Connects from over there: a thread enters the namespace, the socket stays in it."""
        found = []

        def work():
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/run/netns/{self.name}") as namespace:
                if libc.setns(namespace.fileno(), 0x40000000) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            found.append(RawNbd.tcp("10.213.77.1", port, export))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(30)
        return found[0]


def run(*command):
    subprocess.run(command, check=True)


def host_without_power(choices):
    """A host vanishes with a write slot and a request on the way: the slot is free after a while,
    and the request that arrives when its cable is back does not land."""
    with OtherHost() as host:
        listen = {"listen": ["10.213.77.1:0"], "dead_peer_s": 3}
        with ConfiguredDaemon(settings(nbd=listen)) as daemon:
            daemon.squall("volume", "create", "v", "--size", "16M")
            port = tcp_port(daemon)
            dead = host.connect(port, "v")
            assert dead.may_write and dead.write(0, OLD) == 0
            host.pull_cable()
            for block in range(4):
                dead.send(WRITE, block * BLOCK, OLD)
            begun = time.monotonic()
            while True:
                alive = RawNbd.unix(daemon.nbd_socket, "v")
                if alive.may_write:
                    break
                alive.close()
                assert time.monotonic() - begun < 20, "a host without power keeps its write slot"
                time.sleep(0.2)
            waited_s = time.monotonic() - begun
            assert waited_s > 1, f"a short pause of the network costs the slot ({waited_s:.1f} s)"
            for block in range(4):
                assert alive.write(block * BLOCK, NEW) == 0
            host.plug_in()
            time.sleep(1.5)  # it sends again what was not acknowledged
            for block in range(4):
                assert alive.read(block * BLOCK, BLOCK) == NEW, "a ghost has landed"
            alive.close()
            dead.close()
    print(f"host without power: its slot was free after {waited_s:.1f} s", flush=True)


def in_the_ring_of_a_killed_daemon(choices):
    """Direct writes are in flight when the daemon is killed; the next one takes newer writes at
    once. Whatever the old ones do, the newer ones are there after another kill."""
    modes = ("none", "directsync", "writeback", "writethrough")
    with ConfiguredDaemon(settings()) as daemon:
        for mode in modes:
            daemon.squall("volume", "create", mode, "--size", "64M", "--cache", mode)
        for number in range(ROUNDS):
            clients = [RawNbd.unix(daemon.nbd_socket, mode) for mode in modes]
            order = list(range(BLOCKS))
            choices.shuffle(order)
            for client in clients:
                assert client.may_write
                for block in order:
                    client.send(WRITE, block * BLOCK, OLD, cookie=block)
            time.sleep(choices.random() * 0.004)
            daemon.kill()
            for client in clients:
                client.close()
            daemon.start()
            version = bytes([number % 200 + 1]) * BLOCK
            for mode in modes:
                client = RawNbd.unix(daemon.nbd_socket, mode)
                for block in order:
                    client.send(WRITE, block * BLOCK, version, cookie=block)
                for _ in order:
                    assert client.reply() == 0
                if number % 2:
                    client.send(FLUSH)
                    assert client.reply() == 0
                client.close()
            daemon.restart(crash=True)
            for mode in modes:
                expect(daemon, mode, range(BLOCKS), version)
    print(f"in the ring of a killed daemon: {ROUNDS} rounds", flush=True)


# ---- fights ----


class Attempt:
    """A squalld that must not get anywhere."""

    def __init__(self, environment):
        self.process = subprocess.Popen(
            [binary("squalld")],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def expect_failure(self, word):
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 1, (self.process.returncode, out, err)
        assert "ready" not in out, out
        errors = [line for line in err.splitlines() if line.startswith("squall: ")]
        assert len(errors) == 1 and word in errors[0], err


def two_daemons(choices):
    """Of several daemons for one home, pool or journal the first keeps it, also while it sleeps."""
    with ConfiguredDaemon(settings()) as first:
        first.squall("volume", "create", "v", "--size", "16M")
        pool = ["--pool", f"file:{first.home}/pool"]
        same_pool = ConfiguredDaemon(settings(), init_args=pool)
        same_journal = ConfiguredDaemon(
            settings(journal={"size": "64M", "directory": f"{first.home}/journal"})
        )
        try:
            same_pool.init()
            same_journal.init()
            handle = first.nbd("v")
            handle.pwrite(OLD, 0)
            for sleeps in (False, True):
                if sleeps:
                    first.process.send_signal(signal.SIGSTOP)
                attempts = [
                    (Attempt(first.environment), f"pid {first.process.pid}"),
                    (Attempt(same_pool.environment), f"pid {first.process.pid}"),
                    (Attempt(same_journal.environment), "in use by another squalld"),
                ]
                if not sleeps:
                    handle.pwrite(NEW, 0)
                for attempt, word in attempts:
                    attempt.expect_failure(word)
                if sleeps:
                    first.process.send_signal(signal.SIGCONT)
                handle.pwrite(NEW, BLOCK)
                handle.flush()
                assert bytes(handle.pread(2 * BLOCK, 0)) == NEW * 2
            handle.shutdown()
            # The sockets of the first still answer, and a dead first one gives way at once.
            expect(first, "v", range(2), NEW)
            first.kill()
            same_pool.start()
            assert same_pool.start_up_s < 4, same_pool.start_up_s
            Attempt(first.environment).expect_failure(f"pid {same_pool.process.pid}")
            same_pool.kill()
            first.start()
            expect(first, "v", range(2), NEW)
        finally:
            same_pool.close()
            same_journal.close()
    print("two daemons: done", flush=True)


def write_fails(daemon, export, block=0):
    """Writes and flushes with every means; nothing may be acknowledged."""
    client = RawNbd.unix(daemon.nbd_socket, export)
    for _ in range(3):
        error = client.write(block * BLOCK, OLD)
        assert error == errno.EIO, f"write to a volume of somebody else: error {error}"
    client.close()


def taken_over(choices):
    """A volume whose lease was taken by another node: the old owner, back again, answers EIO and
    acknowledges nothing; its other volumes are not held up."""
    first = ConfiguredDaemon(settings())
    second = ConfiguredDaemon(settings(), init_args=["--pool", f"file:{first.home}/pool"])
    try:
        first.init()
        second.init()
        first.start()
        first.squall("volume", "create", "v", "--size", "16M")
        first.squall("volume", "create", "w", "--size", "64M")
        handle = first.nbd("v")
        handle.pwrite(OLD, 0)
        handle.pwrite(OLD, BLOCK)
        handle.flush()
        del handle
        first.nbd("w").pwrite(OLD, 0)
        first.kill()

        second.start()
        write_fails(second, "v")
        refused = second.squall("volume", "takeover", "v", check=False)
        assert refused.returncode == 1 and "--lose-data" in refused.stderr, refused
        second.squall("volume", "takeover", "v", "--lose-data")
        client = RawNbd.unix(second.nbd_socket, "v")
        assert client.write(BLOCK, NEW) == 0 and client.flush() == 0
        client.close()
        second.kill()

        first.start()
        write_fails(first, "v")
        reader = RawNbd.unix(first.nbd_socket, "v")
        reader.send(0, 0, length=BLOCK)
        assert reader.reply() == errno.EIO, "read what may be older than the guest last saw"
        reader.close()
        for verb in (("snapshot", "create", "v@s"), ("volume", "resize", "v", "32M")):
            result = first.squall(*verb, check=False)
            assert result.returncode == 1 and "takeover" in result.stderr, result
        latencies_s = []
        writer = RawNbd.unix(first.nbd_socket, "w")
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            begun = time.monotonic()
            assert writer.write(choices.randrange(1000) * BLOCK, NEW) == 0
            assert writer.flush() == 0
            latencies_s.append(time.monotonic() - begun)
            if len(latencies_s) % 100 == 1:
                write_fails(first, "v", choices.randrange(100))
        writer.close()
        assert max(latencies_s) < 2, max(latencies_s)
        first.squall("snapshot", "create", "w@s")
        first.stop()

        second.start()  # the new owner has everything it acknowledged
        expect(second, "v", [1], NEW)
        second.stop()
        first.start()
        first.squall("volume", "takeover", "v", "--lose-data")
        client = RawNbd.unix(first.nbd_socket, "v")
        found = client.read(0, BLOCK)
        assert found in (bytes(BLOCK), OLD), found[:8]
        assert client.write(0, NEW) == 0 and client.flush() == 0
        client.close()
        first.restart(crash=True)
        expect(first, "v", [0], NEW)
    except BaseException:
        first.close(failed=True)
        raise
    finally:
        second.close()
        first.close()
    print("taken over: done", flush=True)


def main():
    choices = random.Random(seed_from_environment())
    wanted = sys.argv[1:]
    cases = (
        unread_in_a_unix_socket,
        late_over_tcp,
        host_without_power,
        in_the_ring_of_a_killed_daemon,
        two_daemons,
        taken_over,
    )
    for case in cases:
        if wanted and case.__name__ not in wanted:
            continue
        if case is host_without_power and not (is_root() and shutil.which("ip")):
            print(f"{case.__name__}: needs root and iproute2 for a network of its own", flush=True)
            continue
        case(choices)


if __name__ == "__main__":
    main()
