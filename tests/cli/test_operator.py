#!/usr/bin/python3
"""An operator's mistakes, and clients of the control socket who mean harm: every one is answered by
one clear line, and nothing dies of it."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))

from crash_support import ConfiguredDaemon, Daemon, is_root
from small_disk import run
from squall_daemon import binary

MIB = 1 << 20


def start_fails(daemon, *words):
    """squalld says why it does not start, in one line, and ends with status 1."""
    result = subprocess.run(
        daemon.program + [binary("squalld")],
        env=daemon.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
    )
    assert result.returncode == 1, (words, result)
    assert "ready" not in result.stdout, result
    lines = [line for line in result.stderr.splitlines() if line.startswith("squall: ")]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0], (word, lines[0])
    return lines[0]


def config_text(daemon):
    with open(f"{daemon.home}/squall.toml") as file:
        return file.read()


def configure(daemon, text):
    with open(f"{daemon.home}/squall.toml", "w") as file:
        file.write(text)


def wrong_configurations():
    with Daemon() as daemon:
        daemon.squall("volume", "create", "v", "--size", "16M")
        daemon.stop()
        good = config_text(daemon)
        file = f"{daemon.home}/plain-file"
        open(file, "w").close()
        taken = socket.socket()
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cases = {
            'pool = "file:/nonexistent/pool"\n': ("/nonexistent/pool", "squall init"),
            f'pool = "file:{file}"\n': (file,),
            f'pool = "file:{daemon.home}"\n': (daemon.home, "squall init"),
            'pool = "ceph:x"\n': ("squall.toml:1", "file:DIR"),
            "pool = [": ("squall.toml:1", "TOML"),
            'poll = "file:/x"\n': ("squall.toml:1", "no such setting"),
            "\x00\xff": ("squall.toml:1",),
            f'[journal]\ndirectory = "{file}/journal"\n': ("journal",),
            f'[journal]\ndirectory = "{file}"\n': (file,),
            '[journal]\nsize = "1M"\n': ("squall.toml:2", "at least"),
            '[journal]\nsize = "100000000T"\n': ("squall.toml:2",),
            f'[scratch]\ndirectory = "{file}"\n': (file,),
            '[space]\nwarn = 95\n': ("squall.toml", "critical"),
            f'[nbd]\nlisten = ["127.0.0.1:{port}"]\n': ("127.0.0.1", "taken"),
            '[nbd]\nlisten = ["no.such.host.invalid:1"]\n': ("no.such.host.invalid",),
            '[nbd]\nlisten = ["192.0.2.1:1"]\n': ("192.0.2.1",),
        }
        for text, words in cases.items():
            configure(daemon, text)
            start_fails(daemon, *words)
        os.unlink(f"{daemon.home}/squall.toml")
        start_fails(daemon, "squall.toml", "squall init")
        os.mkdir(f"{daemon.home}/squall.toml")
        start_fails(daemon, "squall.toml")
        os.rmdir(f"{daemon.home}/squall.toml")
        configure(daemon, good)
        taken.close()

        shutil.rmtree(daemon.run_dir)
        open(daemon.run_dir, "w").close()
        start_fails(daemon, daemon.run_dir)
        os.unlink(daemon.run_dir)
        os.mkdir(daemon.run_dir)
        with open(daemon.nbd_socket, "w") as precious:
            precious.write("precious")
        start_fails(daemon, daemon.nbd_socket, "not a socket")
        os.unlink(daemon.nbd_socket)
        daemon.start()
        assert [v["name"] for v in daemon.json("volume", "list")] == ["v"]
    print("wrong configurations: done", flush=True)


def too_long_a_path():
    with tempfile.TemporaryDirectory(prefix="sq-") as directory:
        home = os.path.join(directory, "x" * 120)
        daemon = Daemon(environment={"SQUALL_HOME": home})
        try:
            daemon.squall("init")
            start_fails(daemon, "107", "shorter")
        finally:
            daemon.close()
    print("too long a path: done", flush=True)


def read_only_places():
    """Each place that Squall writes to lies on a read-only file system when it starts."""
    for place in ("pool", "journal", "scratch", "run"):
        with Daemon() as daemon:
            handle = None
            daemon.squall("volume", "create", "v", "--size", "16M")
            handle = daemon.nbd("v")
            handle.pwrite(b"\x17" * 4096, 0)
            del handle
            daemon.kill()
            path = f"{daemon.home}/{place}"
            run("mount", "--bind", path, path)
            try:
                run("mount", "-o", "remount,bind,ro", path)
                line = start_fails(daemon, path)
                assert "ead-only" in line, line
            finally:
                run("umount", path)
            daemon.start()
            assert bytes(daemon.nbd("v").pread(4096, 0)) == b"\x17" * 4096
    print("read-only places: done", flush=True)


def places_removed_under_it():
    """Somebody deletes directories of a running daemon: errors, no death; what is left goes on."""
    with ConfiguredDaemon({"journal": {"size": "64M"}}) as daemon:
        daemon.squall("volume", "create", "v", "--size", "64M")
        handle = daemon.nbd("v")
        handle.pwrite(b"\x17" * MIB, 0)
        handle.flush()
        shutil.rmtree(f"{daemon.home}/pool/segments")
        daemon.squall("snapshot", "create", "v@s", check=False)
        daemon.squall("status")
        assert bytes(handle.pread(4096, 0)) == b"\x17" * 4096
        shutil.rmtree(f"{daemon.home}/scratch")
        daemon.squall("volume", "create", "s", "--size", "1M", "--stateless")
        try:
            daemon.nbd("s").pwrite(b"x" * 4096, 0)
        except Exception as error:
            assert "nbd" in type(error).__module__, error
        shutil.rmtree(f"{daemon.home}/journal")
        try:
            handle.pwrite(b"\x18" * MIB, MIB)
            handle.flush()
        except Exception as error:
            assert "nbd" in type(error).__module__, error
        os.unlink(daemon.nbd_socket)
        daemon.squall("status")
        del handle
        assert daemon.is_running(), daemon.log()
        daemon.stop()
    print("places removed under it: done", flush=True)


def few_file_descriptors():
    """With too few of them it says so or serves; it never dies half-way."""
    for limit in (12, 16, 24, 32, 48, 64):
        with Daemon() as daemon:
            daemon.stop()
            daemon.program = ["prlimit", f"--nofile={limit}:{limit}"]
            try:
                daemon.start()
            except RuntimeError as error:
                lines = [l for l in str(error).splitlines() if l.startswith("squall: ")]
                assert len(lines) == 1 and "open files" in lines[0], error
                served = False
            else:
                served = True
                result = daemon.squall("volume", "create", "v", "--size", "16M", check=False)
                assert result.returncode in (0, 1), result
                if result.returncode == 1:
                    assert len(result.stderr.splitlines()) == 1, result.stderr
                assert daemon.is_running(), daemon.log()
        print(f"{limit} file descriptors: {'serves' if served else 'does not start'}", flush=True)


class Control(http.client.HTTPConnection):
    def __init__(self, daemon):
        super().__init__("squalld", timeout=60)
        self.path = daemon.control_socket

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def ask(self, method, target, body=None):
        self.request(method, target, json.dumps(body) if body is not None else None)
        response = self.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text else None


def harmful_requests():
    big = (1 << 64) - 1
    with Daemon() as daemon:
        daemon.squall("volume", "create", "v", "--size", "16M")
        before = daemon.rss_bytes()
        control = Control(daemon)
        cases = [
            ("POST", "/v1/volumes", {"name": "x", "size_bytes": big}),
            ("POST", "/v1/volumes", {"name": "x", "size_bytes": 1 << 51}),
            ("POST", "/v1/volumes", {"name": "x", "size_bytes": -512}),
            ("POST", "/v1/volumes", {"name": "x", "size_bytes": 512.5}),
            ("POST", "/v1/volumes", {"name": "x", "size_bytes": 4096, "count": big}),
            ("POST", "/v1/volumes", {"name": "x", "size_bytes": 4096, "count": 0}),
            ("POST", "/v1/volumes", {"name": "x" * 60, "size_bytes": 4096, "count": 100000}),
            ("POST", "/v1/volumes", {"name": "../../etc/passwd", "size_bytes": 4096}),
            ("POST", "/v1/volumes", {"name": ".", "size_bytes": 4096}),
            ("POST", "/v1/volumes", {"name": "a\u0000b", "size_bytes": 4096}),
            ("POST", "/v1/volumes", {"name": "x", "from": "v@../s"}),
            ("POST", "/v1/volumes", {"name": "x", "from": "@"}),
            ("POST", "/v1/volumes", {"name": "x", "from": "v@" * 30000}),
            ("POST", "/v1/volumes", {"name": "x", "size_bytes": 4096, "store": "../x"}),
            ("POST", "/v1/volumes/v/resize", {"size_bytes": big}),
            ("POST", "/v1/volumes/v/resize", {"size_bytes": 0}),
            ("POST", "/v1/volumes/v/snapshots", {"name": "a/b"}),
            ("POST", "/v1/volumes/v/snapshots", {"name": ""}),
            ("POST", "/v1/volumes/v/rollback", {"snapshot": "v@v@v"}),
            ("POST", "/v1/volumes/v/takeover", {"lose_data": True}),
            ("POST", "/v1/imports", {"name": "i", "size_bytes": big}),
            ("POST", "/v1/imports/1/finish", None),
            ("DELETE", "/v1/imports/18446744073709551616", None),
            ("GET", "/v1/volumes/%00", None),
            ("GET", "/v1/volumes/" + "%2e%2e%2f" * 100, None),
            ("GET", "/v1/../../../etc/passwd", None),
            ("PUT", "/v1/volumes", {}),
            ("DELETE", "/v1/volumes/v?force=maybe", None),
        ]
        for method, target, body in cases:
            status, answer = control.ask(method, target, body)
            assert 400 <= status < 500, (method, target, body, status, answer)
            assert "\n" not in answer["message"], answer
        # Sessions are bounded, and go with the connection.
        for number in range(400):
            status, answer = control.ask("POST", "/v1/imports", {"name": f"i{number}", "size_bytes": 4096})
            if status != 201:
                break
        assert status == 409 and "imports" in answer["message"], (number, answer)
        control.close()
        deadline = time.monotonic() + 10
        while Control(daemon).ask("POST", "/v1/imports", {"name": "i0", "size_bytes": 4096})[0] != 201:
            assert time.monotonic() < deadline, "sessions outlive their connection"
            time.sleep(0.1)
        # A stateless volume whose block map alone is larger than the disk takes nothing from others.
        daemon.squall("volume", "create", "huge", "--size", "1024T", "--stateless")
        try:
            daemon.nbd("huge")
        except Exception as error:
            assert "nbd" in type(error).__module__, error
        found = [os.path.join(d, f) for d in (f"{daemon.home}/scratch", f"{daemon.run_dir}/scratch")
                 if os.path.isdir(d) for f in os.listdir(d)]
        assert sum(os.stat(path).st_blocks * 512 for path in found) < MIB, found
        daemon.squall("volume", "remove", "huge")
        assert daemon.is_running(), daemon.log()
        assert [v["name"] for v in daemon.json("volume", "list")] == ["v"]
        growth = daemon.rss_bytes() - before
        assert growth < 64 * MIB, f"{growth // MIB} MiB more than before"
    print("harmful requests: done", flush=True)


def busy_while_listing():
    """Listings and creation of thousands of volumes do not hold up a guest's requests."""
    with ConfiguredDaemon({"journal": {"size": "64M"}}) as daemon:
        daemon.squall("volume", "create", "w", "--size", "16M")
        handle = daemon.nbd("w")
        handle.pwrite(b"x" * 4096, 0)
        worst_s = {}
        stop = threading.Event()
        now = ["idle"]

        def read():
            while not stop.is_set():
                begun = time.monotonic()
                handle.pread(4096, 0)
                took_s = time.monotonic() - begun
                worst_s[now[0]] = max(took_s, worst_s.get(now[0], 0))

        thread = threading.Thread(target=read)
        thread.start()
        for what, command in (
            ("create", ("volume", "create", "v", "--count", "3000", "--size", "1G")),
            ("list", ("--json", "volume", "list")),
            ("status", ("status",)),
            ("list again", ("--json", "volume", "list")),
        ):
            now[0] = what
            daemon.squall(*command)
        stop.set()
        thread.join()
    print("busy: " + ", ".join(f"{k} {v * 1000:.0f} ms" for k, v in worst_s.items()), flush=True)
    assert max(worst_s.values()) < 2, worst_s


def main():
    wanted = sys.argv[1:]
    cases = [wrong_configurations, too_long_a_path, few_file_descriptors, places_removed_under_it,
             harmful_requests, busy_while_listing]
    if is_root():
        cases.append(read_only_places)
    for case in cases:
        if not wanted or case.__name__ in wanted:
            case()


if __name__ == "__main__":
    main()
