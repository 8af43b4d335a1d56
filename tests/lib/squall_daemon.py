"""A private Squall daemon for end-to-end tests.

    from squall_daemon import Daemon

    with Daemon() as daemon:                      # init, start, wait until ready
        daemon.squall("volume", "create", "v", "--size", "64M")
        info = daemon.json("volume", "show", "v")  # any listing, parsed
        handle = daemon.nbd("v")                   # a connected libnbd handle
        daemon.kill()                              # SIGKILL, as a crash
        daemon.start()                             # the same home again

State lies in a temporary SQUALL_HOME (under $SQUALL_TEST_DIR, else /tmp) that is removed at the
end; with SQUALL_TEST_KEEP=1 it is kept and its path printed. The binaries come from SQUALL_BIN,
else from build/release/bin of the checkout. Scripts find this module through PYTHONPATH (ctest sets
it) or by `sys.path.insert(0, ...)` of tests/lib.
"""

import http.client
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
READY_TIMEOUT_S = float(os.environ.get("SQUALL_READY_TIMEOUT_S", "60"))


def binary(name):
    """The path of a program of the build under test."""
    return os.path.join(os.environ.get("SQUALL_BIN", str(ROOT / "build/release/bin")), name)


class CommandFailed(Exception):
    def __init__(self, args, result):
        super().__init__(
            f"{' '.join(map(str, args))}: exit status {result.returncode}\n"
            f"{result.stdout}{result.stderr}"
        )
        self.status = result.returncode
        self.stdout = result.stdout
        self.stderr = result.stderr


class Daemon:
    """One daemon and its home. Not started by the constructor; `with` does init and start.

    config: lines put into squall.toml after `squall init` has written it (TOML, appended).
    init_args: further arguments for `squall init`.
    program: argv in front of squalld (for strace, valgrind, prlimit).
    """

    def __init__(self, config="", init_args=(), program=(), environment=None):
        self.home = tempfile.mkdtemp(prefix="sq-", dir=os.environ.get("SQUALL_TEST_DIR", "/tmp"))
        self.run_dir = os.path.join(self.home, "run")
        self.control_socket = os.path.join(self.run_dir, "control.sock")
        self.nbd_socket = os.path.join(self.run_dir, "nbd.sock")
        self.log_path = os.path.join(self.home, "squalld.log")
        self.config = config
        self.init_args = list(init_args)
        self.program = list(program)
        self.arguments = []  # of squalld, for the next start
        self.process = None
        self.environment = dict(os.environ)
        for name in ("SQUALL_SOCKET", "NOTIFY_SOCKET"):
            self.environment.pop(name, None)
        self.environment["SQUALL_HOME"] = self.home
        self.environment.update(environment or {})

    def __enter__(self):
        try:
            self.init()
            self.start()
        except BaseException:
            self.close(failed=True)
            raise
        return self

    def __exit__(self, kind, value, traceback):
        self.close(failed=kind is not None)

    # Life of the daemon.

    def init(self):
        self.squall("init", *self.init_args)
        if self.config:
            with open(os.path.join(self.home, "squall.toml"), "a") as file:
                file.write("\n" + self.config + "\n")

    def start(self):
        """Starts squalld and returns when it has printed its ready line."""
        started = time.monotonic()
        self._spawn()
        line = b""
        while not line.endswith(b"\n"):
            left = READY_TIMEOUT_S - (time.monotonic() - started)
            readable = left > 0 and select.select([self.process.stdout], [], [], left)[0]
            byte = os.read(self.process.stdout.fileno(), 1) if readable else b""
            if not byte:
                status = self.process.poll()
                self.kill()
                raise RuntimeError(f"squalld is not ready (status {status}):\n{self.log()}")
            line += byte
        if not line.startswith(b"squalld: ready"):
            self.kill()
            raise RuntimeError(f"squalld said {line!r}:\n{self.log()}")
        self.start_up_s = time.monotonic() - started

    def start_and_kill(self, after_s):
        """Starts squalld and kills it after so long, ready or not."""
        self._spawn()
        time.sleep(after_s)
        self.kill()

    def _spawn(self):
        assert self.process is None, "the daemon is running"
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.program + [binary("squalld")] + self.arguments,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def stop(self, timeout_s=60):
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"squalld did not stop within {timeout_s} s:\n{self.log()}")
        self._forget()
        return status

    def kill(self):
        """SIGKILL: the crash of a daemon."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self._forget()

    def restart(self, crash=False):
        self.kill() if crash else self.stop()
        self.start()

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def _forget(self):
        self.process.stdout.close()
        self.process = None

    def close(self, failed=False):
        died = self.process is not None and self.process.poll() is not None
        status = self.process.returncode if died else None
        self.kill()
        if failed or died:
            sys.stderr.write(f"--- squalld's log ({self.log_path})\n{self.log()}---\n")
        if os.environ.get("SQUALL_TEST_KEEP") == "1":
            sys.stderr.write(f"kept: {self.home}\n")
        else:
            shutil.rmtree(self.home, ignore_errors=True)
        if died and not failed:
            raise RuntimeError(f"squalld died during the test (status {status})")

    def log(self):
        try:
            with open(self.log_path, errors="replace") as file:
                return file.read()[-20000:]
        except FileNotFoundError:
            return ""

    # Talking to it.

    def squall(self, *args, check=True, input=None, timeout_s=300):
        """Runs `squall ARGS`; the CompletedProcess, its output as text."""
        command = [binary("squall"), *map(str, args)]
        result = subprocess.run(
            command,
            env=self.environment,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=timeout_s,
            text=not isinstance(input, bytes),
        )
        if check and result.returncode != 0:
            raise CommandFailed(command, result)
        return result

    def json(self, *args):
        """Runs `squall --json ARGS` and parses what it prints."""
        return json.loads(self.squall("--json", *args).stdout)

    def post(self, path, body=None):
        """A POST of the control API that must succeed; what it answers, parsed."""
        connection = http.client.HTTPConnection("squalld", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self.control_socket)
        connection.request("POST", path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        assert answer.status < 300, f"POST {path}: {answer.status} {text}"
        return json.loads(text) if text else None

    def uri(self, export):
        return f"nbd+unix:///{export}?socket={self.nbd_socket}"

    def nbd(self, export, contexts=("base:allocation",)):
        """A libnbd handle connected to `export` (the Python module libnbd: python3-libnbd)."""
        import nbd

        handle = nbd.NBD()
        for context in contexts:
            handle.add_meta_context(context)
        handle.set_export_name(export)
        handle.connect_unix(self.nbd_socket)
        return handle

    def rss_bytes(self):
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
