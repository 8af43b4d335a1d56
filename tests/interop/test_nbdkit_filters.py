#!/usr/bin/python3
"""nbdkit stands between clients and us: it checks what is copied, fails requests, holds them back,
stops them, and tries again when the daemon has been killed. The data must be right each time.
"""
import contextlib
import errno
import os
import random
import socket
import subprocess
import tempfile
import time

import nbd

from support import MIB, Daemon, compare, eventually, make_sparse, run, run_checks, run_json

SIZE = 24 * MIB


@contextlib.contextmanager
def nbdkit(daemon, filters, export, *arguments):
    """An nbdkit in front of `export`, the first filter nearest to the client; its URI."""
    directory = tempfile.mkdtemp(prefix="sq-nbdkit-")
    path = os.path.join(directory, "sock")
    process = subprocess.Popen(
        ["nbdkit", "--foreground", "--exit-with-parent", "--unix", path, "--threads=16",
         *[f"--filter={name}" for name in filters], "nbd", f"uri={daemon.uri(export)}",
         "retry=30", *arguments], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually("nbdkit listens", lambda: os.path.exists(path) or process.poll() is not None)
        assert process.poll() is None, "nbdkit did not start"
        yield f"nbd+unix:///?socket={path}"
    finally:
        process.terminate()
        process.wait(30)
        if os.path.exists(path):
            os.unlink(path)
        os.rmdir(directory)


def connect(uri):
    handle = nbd.NBD()
    handle.connect_uri(uri)
    return handle


def check_checkwrite(daemon, directory):
    """What copying tools read from us and write to us is the same: checkwrite compares each write,
    zero and trim with what is there. A difference is found."""
    source = os.path.join(directory, "source")
    make_sparse(source, SIZE)
    daemon.squall("image", "import", "checked", source, "--format", "raw")
    daemon.squall("volume", "create", "checked-clone", "--from", "checked")
    run("qemu-io", "-f", "raw", "-c", "write -P 9 1M 3M", "-c", "discard 2M 1M",
        daemon.uri("checked-clone"))
    daemon.squall("snapshot", "create", "checked-clone@s")
    for export in ("checked", "checked-clone", "checked-clone@s"):
        with nbdkit(daemon, ["checkwrite"], export) as uri:
            run("nbdcopy", "--connections=4", daemon.uri(export), uri)
            run("nbdcopy", "--synchronous", uri, uri)
            run("nbdcopy", "--destination-is-zero", uri, uri)
            run("qemu-img", "convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", uri, uri)
    with nbdkit(daemon, ["checkwrite"], "checked") as uri:
        run("nbdcopy", source, uri)
        run("nbdcopy", daemon.uri("checked-clone@s"), uri, status=1)


def check_errors_retried_by_client(daemon, directory):
    """One request in ten fails on the way; a client that repeats what failed gets all of it right,
    and a failed request has done nothing or all."""
    daemon.squall("volume", "create", "errors", "--size", SIZE)
    rng = random.Random(7)
    model = bytearray(SIZE)
    failures = 0
    with nbdkit(daemon, ["error"], "errors", "error=EIO", "error-rate=10%") as uri:
        handle = connect(uri)
        for _ in range(1500):
            length = rng.choice((1, 512, 4096, 70_000))
            offset = rng.randrange(SIZE - length)
            data = rng.choice((bytes(length), rng.randbytes(length)))
            verb = handle.zero if not any(data) and rng.random() < 0.5 else None
            while True:
                try:
                    verb(length, offset) if verb else handle.pwrite(data, offset)
                    model[offset:offset + length] = data
                    found = handle.pread(length, offset)
                    break
                except nbd.Error as error:
                    assert error.errnum == errno.EIO, error
                    failures += 1
            assert found == data, f"{length} bytes at {offset}"
        handle.shutdown()
    assert failures > 100, failures
    handle = daemon.nbd("errors")
    assert handle.pread(SIZE, 0) == bytes(model)
    handle.shutdown()


def check_errors_retried_by_nbdkit(daemon, directory):
    """The tools see none of the errors: a filter repeats what failed."""
    source, back = os.path.join(directory, "source"), os.path.join(directory, "back")
    make_sparse(source, SIZE, seed=6)
    daemon.squall("volume", "create", "retried", "--size", SIZE)
    with nbdkit(daemon, ["retry-request", "error"], "retried", "error=EIO", "error-rate=4%",
                "retry-request-delay=1") as uri:
        run("nbdcopy", "--flush", source, uri)
        compare(source, daemon.uri("retried"))
        run("nbdcopy", uri, back)
        run("cmp", source, back)
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", uri, back)
        run("cmp", source, back)


def check_delays(daemon, directory):
    """Slow reads and writes: many in flight, answered in another order than asked."""
    for volume, options in (("delayed", ()), ("delayed-direct", ("--cache", "directsync")),
                            ("delayed-stateless", ("--stateless",))):
        daemon.squall("volume", "create", volume, "--size", SIZE, *options)
        with nbdkit(daemon, ["delay"], volume, "rdelay=2ms", "wdelay=5ms") as uri:
            run("fio", "--name=delayed", "--ioengine=nbd", f"--uri={uri}", "--size=8m",
                "--rw=randrw", "--bsrange=512-64k", "--bs_unaligned=1", "--iodepth=32",
                "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_backlog=128",
                "--verify_state_save=0", cwd=directory)
            extents = run_json("nbdinfo", "--map", "--json", uri)
            assert sum(extent["length"] for extent in extents) == SIZE


class Pause:
    """nbdkit's pause filter: while it holds, nothing is in flight."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)

    def say(self, word):
        self.socket.sendall(word.encode())
        answer = self.socket.recv(1).decode()
        assert answer == word.upper(), (word, answer)

    def __enter__(self):
        self.say("p")

    def __exit__(self, *_):
        self.say("r")


def check_pauses(daemon, directory):
    """A busy client is held for a moment: a snapshot taken then equals the volume then, and it
    goes on as if nothing had been, even when the daemon was killed meanwhile."""
    daemon.squall("volume", "create", "paused", "--size", SIZE)
    control = os.path.join(directory, "pause")
    with nbdkit(daemon, ["pause", "retry"], "paused", f"pause-control={control}",
                "retry-delay=1", "retry-exponential=no") as uri:
        fio = subprocess.Popen(
            ["fio", "--name=paused", "--ioengine=nbd", f"--uri={uri}", "--size=16m",
             "--rw=randwrite", "--bsrange=512-32k", "--iodepth=16", "--verify=crc32c",
             "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0", "--rate=12m"],
            cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
        # Who comes first may write: that must be fio, not the comparison below.
        eventually("fio writes",
                   lambda: daemon.json("volume", "show", "paused")["bytes_written"] > 0)
        pause = Pause(control)
        for number in range(6):
            time.sleep(0.25)
            with pause:
                if number == 3:
                    daemon.restart(crash=True)
                daemon.squall("snapshot", "create", f"paused@{number}")
                compare(daemon.uri("paused"), daemon.uri(f"paused@{number}"))
        output, _ = fio.communicate(timeout=120)
        assert fio.returncode == 0, output
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", daemon.uri("paused@0"),
        daemon.uri("paused"), status=1)


def check_kills_behind_retry(daemon, directory):
    """Copies go on over kills of the daemon behind nbdkit's retry filter."""
    source, back = os.path.join(directory, "source"), os.path.join(directory, "back")
    with open(source, "wb") as file:
        file.write(random.Random(8).randbytes(SIZE))
    for volume, options in (("killed", ()), ("killed-pool", ("--durability", "pool"))):
        daemon.squall("volume", "create", volume, "--size", SIZE, *options)
        with nbdkit(daemon, ["retry", "rate"], volume, "rate=160M", "burstiness=0.1",
                    "retry-delay=1", "retry-exponential=no", "retries=20") as uri:
            for copy in (("--flush", source, uri), (uri, back)):
                copying = subprocess.Popen(["nbdcopy", "--connections=2", *copy])
                time.sleep(0.4)
                assert copying.poll() is None, "the copy was too fast for a kill"
                daemon.kill()
                time.sleep(0.2)
                daemon.start()
                assert copying.wait(120) == 0
        run("cmp", source, back)
        compare(source, daemon.uri(volume))


def check_cow(daemon, directory):
    """A writable overlay that somebody else keeps, over an image of ours."""
    with nbdkit(daemon, ["cow"], "checked") as uri:
        run("qemu-io", "-f", "raw", "-c", "write -P 5 0 5M", "-c", "write -z 6M 64k",
            "-c", "read -P 5 0 5M", uri)
    handle = daemon.nbd("checked")
    assert handle.is_read_only()
    handle.shutdown()
    with nbdkit(daemon, ["checkwrite"], "checked") as uri:
        run("nbdcopy", daemon.uri("checked"), uri)


def main():
    with tempfile.TemporaryDirectory(prefix="squall-nbdkit-") as directory, Daemon() as daemon:
        run_checks(check_checkwrite, check_errors_retried_by_client,
                   check_errors_retried_by_nbdkit, check_delays, check_pauses,
                   check_kills_behind_retry, check_cow, arguments=(daemon, directory))


if __name__ == "__main__":
    main()
