"""What the end-to-end tests in this folder share. Importing it makes tests/lib importable."""
import json
import os
import random
import re
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "lib"))

from squall_daemon import Daemon, binary  # noqa: E402,F401  (re-exported)

KIB = 1 << 10
MIB = 1 << 20
CACHE_MODES = ("writeback", "none", "writethrough", "directsync", "unsafe")


def run(*command, status=0, **options):
    """Runs a program that must end with `status`; its stdout and stderr."""
    options.setdefault("timeout", 240)
    options.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, **options)
    assert done.returncode == status, (
        f"{' '.join(map(str, command))}: exit status {done.returncode}, not {status}\n"
        f"{done.stdout}")
    return done.stdout


def run_json(*command, **options):
    return json.loads(run(*command, **options))


def script(name, *arguments, timeout_s=300, **environment):
    """Runs another Python script of this folder, its output shown."""
    sys.stdout.flush()
    subprocess.run([sys.executable, os.path.join(HERE, name), *arguments], check=True,
                   timeout=timeout_s, env=dict(os.environ, **environment))


def fails(daemon, *arguments, status=1, says=()):
    """A `squall` command that must fail as the command line promises: with `status`, nothing on
    stdout, one line on stderr, with each word of `says` in it. That line."""
    done = daemon.squall(*arguments, check=False)
    where = f"squall {' '.join(map(str, arguments))}: {done}"
    assert done.returncode == status, where
    assert done.stdout == "", where
    assert_one_line(done.stderr, where)
    for words in says:
        assert words in done.stderr, f"{words!r} is missing: {where}"
    return done.stderr


def assert_one_line(text, where=""):
    """One line that names the program and says something."""
    assert text.count("\n") == 1 and text.endswith("\n"), f"{where}\n{text}"
    assert text.startswith(("squall: ", "squalld: ")) and len(text) > 20, f"{where}\n{text}"


def compare(a, b, a_format="raw", b_format="raw"):
    """qemu-img must call both identical. Each is a file or an NBD URI."""
    run("qemu-img", "compare", "-f", a_format, "-F", b_format, a, b)


def make_sparse(path, size, pieces=40, seed=5):
    """Data, zeros and holes at places that are not all aligned."""
    rng = random.Random(seed)
    with open(path, "wb") as image:
        image.truncate(size)
        for _ in range(pieces):
            count = min(size, rng.choice((511, 4096, 70000, MIB)))
            image.seek(rng.randint(0, size - count))
            image.write(rng.choice((rng.randbytes(count), bytes(count), b"squall " * (count // 7))))
    return path


class TcpDaemon(Daemon):
    """A daemon that serves NBD on a TCP port of 127.0.0.1, too."""

    def init(self):
        super().init()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.nbd_port = probe.getsockname()[1]
        path = os.path.join(self.home, "squall.toml")
        with open(path) as file:
            text = file.read()
        text, count = re.subn(r"^listen = .*$", f'listen = ["127.0.0.1:{self.nbd_port}"]', text,
                              flags=re.MULTILINE)
        assert count == 1, text
        with open(path, "w") as file:
            file.write(text)

    def tcp_uri(self, export):
        return f"nbd://127.0.0.1:{self.nbd_port}/{export}"


def eventually(what, condition, timeout_s=20):
    """Waits until condition() is true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"after {timeout_s} s still not: {what}"
        time.sleep(0.02)


def run_checks(*checks, arguments=()):
    """Each check in turn, with a line about it."""
    for check in checks:
        begin = time.monotonic()
        check(*arguments)
        print(f"{check.__name__}: ok, {time.monotonic() - begin:.1f} s", flush=True)
