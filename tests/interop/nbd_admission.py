#!/usr/bin/python3
"""One writing client per export, seen by real processes on a unix socket and on TCP.

Needs NBD_SOCKET with the exports disk, image, shared and slow; on TCP NBD_PORT.
"""
import errno
import os
import signal
import subprocess
import sys
import time

import nbd

SOCKET = os.environ["NBD_SOCKET"]
PORT = os.environ.get("NBD_PORT")


def connect(name, tcp=False):
    h = nbd.NBD()
    h.connect_uri(f"nbd://127.0.0.1:{PORT}/{name}" if tcp else
                  f"nbd+unix:///{name}?socket={SOCKET}")
    return h


class OtherProcess:
    """Another process with an open connection; killed on exit."""

    CODE = """
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
print(int(h.is_read_only()), flush=True)
if len(sys.argv) > 2:
    for i in range(100):
        h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"D" * 4096)), i * 4096)
    print("sent", flush=True)
sys.stdin.read()
"""

    def __init__(self, name, *arguments):
        uri = f"nbd+unix:///{name}?socket={SOCKET}"
        self.process = subprocess.Popen([sys.executable, "-c", self.CODE, uri, *arguments],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.read_only = self.process.stdout.readline() == "1\n"

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def check_unix():
    h = connect("disk")
    second = connect("disk")
    assert not h.is_read_only() and not second.is_read_only()
    other = OtherProcess("disk")
    assert other.read_only
    other.kill()
    assert not OtherProcess("shared").read_only
    info = subprocess.run(["nbdinfo", "--is", "read-only",
                           f"nbd+unix:///disk?socket={SOCKET}"])
    assert info.returncode == 0, "nbdinfo of a disk in use sees it read-only"
    h.pwrite(b"still mine", 0)
    h.shutdown()
    second.shutdown()
    other = OtherProcess("disk")
    assert not other.read_only
    mine = connect("disk")
    assert mine.is_read_only()
    try:
        mine.pwrite(b"x" * 512, 0)
        raise AssertionError("a read-only client wrote")
    except nbd.Error as error:
        assert error.errnum == errno.EPERM, error
    mine.shutdown()
    other.kill()
    h = connect("disk")
    assert not h.is_read_only(), "the killed writer's place is free at once"
    h.shutdown()


def check_killed_writer():
    """A writer is killed with a hundred requests under way, each of which takes 20 ms. None of
    them may land after its successor was let in."""
    for _ in range(5):
        other = OtherProcess("slow", "write")
        assert not other.read_only and other.process.stdout.readline() == "sent\n"
        other.kill()
        h = connect("slow")
        assert not h.is_read_only()
        h.pwrite(b"N" * (100 * 4096), 0)
        time.sleep(0.1)
        assert h.pread(100 * 4096, 0) == b"N" * (100 * 4096)
        h.zero(100 * 4096, 0)
        h.shutdown()


def check_tcp():
    if not PORT:
        return
    first = connect("disk", tcp=True)
    assert not first.is_read_only() and not first.can_multi_conn()
    local = connect("disk")
    assert local.is_read_only(), "on the unix socket it is another client"
    second = connect("disk", tcp=True)
    assert not second.is_read_only(), "the same client again: it replaces its first connection"
    try:
        first.pwrite(b"late" * 128, 0)
        raise AssertionError("the replaced connection still writes")
    except nbd.Error:
        pass
    second.pwrite(b"new!" * 128, 0)
    assert local.pread(512, 0) == b"new!" * 128
    second.shutdown()
    local.shutdown()
    images = [connect("image", tcp=True) for _ in range(4)]
    assert all(h.pread(512, 0) is not None for h in images), "readers are not replaced"
    for h in images:
        h.shutdown()


def main():
    for check in (check_unix, check_killed_writer, check_tcp):
        check()
        print(f"{check.__name__}: ok", flush=True)


if __name__ == "__main__":
    main()
