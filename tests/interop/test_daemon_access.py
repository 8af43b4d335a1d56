#!/usr/bin/python3
"""Who reaches the daemon and what: nothing listens on TCP by default, NBD does where configured;
one writing client per volume and several on a --shared one; a second daemon on the same home or the
same pool is refused, and the first goes on undisturbed.
"""
import errno
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import nbd

from support import (MIB, Daemon, TcpDaemon, assert_one_line, binary, fails, run, run_checks,
                     run_json)

HOLDER = """
import nbd, sys
handle = nbd.NBD()
handle.connect_uri(sys.argv[1])
print("read-only" if handle.is_read_only() else "writable", flush=True)
sys.stdin.read()
"""


class OtherClient:
    """Another process connected to an export, until it is closed."""

    def __init__(self, uri):
        self.process = subprocess.Popen([sys.executable, "-c", HOLDER, uri], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.access = self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.communicate(timeout=30)


def listening_tcp(pid):
    """The local TCP addresses on which a process listens, as /proc prints them."""
    sockets = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            continue
        if match := re.fullmatch(r"socket:\[(\d+)\]", target):
            sockets.add(match[1])
    found = []
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{table}") as file:
            rows = [line.split() for line in file.readlines()[1:]]
        found += [row[1] for row in rows if row[9] in sockets and row[3] == "0A"]
    return found


def check_no_tcp_by_default():
    with Daemon() as daemon:
        assert listening_tcp(daemon.process.pid) == []
        assert daemon.json("status")["node"]["nbd_listen"] == []
        for path in (daemon.control_socket, daemon.nbd_socket):
            assert os.stat(path).st_mode & 0o007 == 0, f"{path} is open to everybody"


def check_tcp():
    with TcpDaemon() as daemon:
        address = f"127.0.0.1:{daemon.nbd_port}"
        assert daemon.json("status")["node"]["nbd_listen"] == [address]
        assert listening_tcp(daemon.process.pid) == [f"0100007F:{daemon.nbd_port:04X}"]
        daemon.squall("volume", "create", "disk", "--size", "16M")
        uri = daemon.tcp_uri("disk")
        run("qemu-io", "-f", "raw", "-c", "write -P 0x42 1M 1M", "-c", "flush", uri)
        run("qemu-io", "-f", "raw", "-r", "-c", "read -P 0x42 1M 1M", daemon.uri("disk"))
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, daemon.uri("disk"))
        listing = run_json("nbdinfo", "--json", "--list", daemon.tcp_uri(""))
        assert [export["export-name"] for export in listing["exports"]] == ["disk"]
        info = run_json("nbdinfo", "--json", uri)["exports"][0]
        assert not info["can_multi_conn"], "one connection a writer on TCP"
        with OtherClient(daemon.uri("disk")) as local:
            assert local.access == "writable"
            assert run_json("nbdinfo", "--json", uri)["exports"][0]["is_read_only"]
        assert not run_json("nbdinfo", "--json", uri)["exports"][0]["is_read_only"]
        daemon.restart()
        run("qemu-io", "-f", "raw", "-r", "-c", "read -P 0x42 1M 1M", uri)


def check_port_in_use():
    """A daemon that cannot have its address says so and does not start."""
    with TcpDaemon() as daemon:
        rival = TcpDaemon()
        try:
            rival.init()
            path = os.path.join(rival.home, "squall.toml")
            with open(path) as file:
                text = file.read().replace(f":{rival.nbd_port}\"", f":{daemon.nbd_port}\"")
            with open(path, "w") as file:
                file.write(text)
            line = refused(rival.environment)
            assert str(daemon.nbd_port) in line, line
        finally:
            rival.close()


def check_one_writer():
    with Daemon() as daemon:
        daemon.squall("volume", "create", "disk", "--size", "16M")
        daemon.squall("volume", "create", "both", "--size", "16M", "--shared")
        mine = daemon.nbd("disk")
        mine.pwrite(b"1" * 4096, 0)
        with OtherClient(daemon.uri("disk")) as other:
            assert other.access == "read-only"
        run("qemu-io", "-f", "raw", "-c", "write 0 4k", daemon.uri("disk"), status=1)
        run("qemu-io", "-f", "raw", "-r", "-c", f"read -P {ord('1')} 0 4k", daemon.uri("disk"))
        volume = daemon.json("volume", "show", "disk")
        assert volume["open"]
        print(fails(daemon, "volume", "remove", "disk", says=["disk", "in use"]), end="")
        mine.pwrite(b"2" * 4096, 0)
        mine.shutdown()
        with OtherClient(daemon.uri("disk")) as other:
            assert other.access == "writable"
        # On purpose: two writers, each sees the other's bytes.
        first = daemon.nbd("both")
        with OtherClient(daemon.uri("both")) as other:
            assert other.access == "writable"
            run("qemu-io", "-f", "raw", "-c", "write -P 0x33 8k 4k", daemon.uri("both"))
            assert first.pread(4096, 8192) == b"\x33" * 4096
            first.pwrite(b"\x44" * 4096, 0)
            run("qemu-io", "-f", "raw", "-c", "read -P 0x44 0 4k", daemon.uri("both"))
        first.shutdown()
        # Removed by force under its client: that connection ends, nothing else does.
        mine = daemon.nbd("disk")
        daemon.squall("volume", "remove", "disk", "--force")
        try:
            mine.pread(512, 0)
            raise AssertionError("a removed volume still answers")
        except nbd.Error as error:
            assert error.errnum in (errno.ENOTCONN, errno.EIO, errno.ECONNRESET, errno.ESHUTDOWN,
                                    errno.EPIPE, 0), error
        assert daemon.json("volume", "list")[0]["name"] == "both"


def refused(environment, program="squalld"):
    """A daemon that must not start: exit status 1, one line on stderr. That line."""
    begin = time.monotonic()
    command = [binary("squall"), "serve"] if program == "squall" else [binary(program)]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=60,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and done.stdout == "", done
    assert_one_line(done.stderr)
    assert time.monotonic() - begin < 15
    print(done.stderr, end="")
    return done.stderr


def check_second_daemon():
    with Daemon() as daemon:
        daemon.squall("volume", "create", "disk", "--size", f"{16 * MIB}")
        handle = daemon.nbd("disk")
        handle.pwrite(b"mine" * 1024, 0)
        # `squall serve` is the same; and another home on the same pool. All at once: each waits a
        # few seconds for the pool to become free.
        rival = Daemon(init_args=["--pool", f"file:{daemon.home}/pool"])
        try:
            rival.init()
            with ThreadPoolExecutor() as threads:
                lines = list(threads.map(refused, *zip((daemon.environment, "squalld"),
                                                       (daemon.environment, "squall"),
                                                       (rival.environment, "squalld"))))
            for line in lines:
                assert f"{daemon.home}/pool" in line and str(daemon.process.pid) in line, line
        finally:
            rival.close()
        # The first is undisturbed: its sockets, its client, its data.
        handle.pwrite(b"more" * 1024, 4096)
        assert handle.pread(8192, 0) == b"mine" * 1024 + b"more" * 1024
        assert daemon.json("status")["node"]["pid"] == daemon.process.pid
        assert daemon.nbd("disk").pread(4, 4096) == b"more"
        # One that hangs still holds its pool; a dead one does not.
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            refused(daemon.environment)
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        daemon.restart(crash=True)
        assert daemon.nbd("disk").pread(8192, 0) == b"mine" * 1024 + b"more" * 1024


def main():
    run_checks(check_no_tcp_by_default, check_tcp, check_port_in_use, check_one_writer,
               check_second_daemon)


if __name__ == "__main__":
    main()
