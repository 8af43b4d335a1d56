#!/usr/bin/python3
"""An import that fails, is interrupted or killed ends with one clear line and leaves nothing
behind: no image, no session, no helper process, no temporary file; the name is free again.
"""
import errno
import glob
import os
import random
import signal
import subprocess
import tempfile
import threading

import nbd

from support import (KIB, MIB, Daemon, assert_one_line, binary, compare, eventually, fails,
                     make_sparse, run, run_checks)


def assert_nothing_left(daemon, directory, name):
    assert name not in [image["name"] for image in daemon.json("image", "list")]
    assert helpers_of(directory) == [], "a helper process lives on"
    assert glob.glob(os.path.join(directory, "tmp", "*")) == [], "temporary files are left"
    # The name is free, and no import disk answers.
    daemon.squall("image", "import", name, os.path.join(directory, "good"), "--verify")
    session = daemon.json("image", "show", name)["id"]
    for number in range(max(1, session - 8), session + 2):
        try:
            daemon.nbd(f":import-{number}")
            raise AssertionError(f"import session {number} is still open")
        except nbd.Error as error:
            assert error.errnum == errno.ENOENT, error
    daemon.squall("image", "remove", name)


def helpers_of(directory):
    """Processes whose command line names a file of `directory` as qemu-nbd or qemu-img would."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if words[0].endswith((b"qemu-nbd", b"qemu-img", b"nbdkit")) and any(
                directory.encode() in word for word in words):
            found.append(int(path.split("/")[2]))
    return found


def bad_qcow2(directory):
    """A qcow2 whose header is good and whose level-1 table lies beyond everything."""
    path = os.path.join(directory, "bad.qcow2")
    run("qemu-img", "create", "-f", "qcow2", path, "16M")
    with open(path, "r+b") as file:
        file.seek(40)
        file.write((0x1234567 << 9 | 5).to_bytes(8, "big"))
    return path


def rotten_qcow2(directory):
    """A qcow2 that opens, with compressed clusters that cannot be decompressed: fails midway."""
    raw, path = make_sparse(os.path.join(directory, "raw"), 24 * MIB), os.path.join(
        directory, "rotten.qcow2")
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, path)
    with open(path, "r+b") as file:
        size = os.stat(path).st_size
        for offset in range(size // 2, size - 64 * KIB, 4 * KIB):
            file.seek(offset)
            file.write(random.Random(offset).randbytes(1 * KIB))
    return path


def check_bad_sources(daemon, directory):
    def path(name, content):
        with open(os.path.join(directory, name), "wb") as file:
            file.write(content)
        return file.name

    empty, garbage = path("empty", b""), path("garbage", os.urandom(100_000))
    header = path("header.qcow2", b"QFI\xfb" + os.urandom(3000))
    cases = [
        (["x", empty], "empty"),
        (["x", garbage, "--format", "qcow2"], garbage),
        (["x", garbage, "--format", "vmdk"], garbage),
        (["x", garbage, "--format", "no-such-format"], "no-such-format"),
        (["x", header], header),
        (["x", bad_qcow2(directory)], "bad.qcow2"),
        (["x", rotten_qcow2(directory)], "rotten.qcow2"),
        (["x", os.path.join(directory, "missing")], "missing"),
        (["x", directory], "directory"),
        (["x", "/dev/null"], "/dev/null"),
        (["x", "http://127.0.0.1:1/image"], "http://127.0.0.1:1/image"),
        (["x", garbage, "--size", "1M"], "--size"),
        (["x", garbage, "--store", "no-such-store"], "no-such-store"),
        (["bad/name", garbage], "bad/name"),
        ([".hidden", garbage], ".hidden"),
        (["n" * 65, garbage], "n" * 65),
    ]
    for arguments, words in cases:
        print(fails(daemon, "image", "import", *arguments, says=[words]), end="")
    for stdin, arguments, words in ((b"", [], "empty"), (b"x" * 5000, ["--size", "4096"], "--size"),
                                    (b"x", ["--format", "qcow2"], "raw")):
        done = daemon.squall("image", "import", "x", "-", *arguments, check=False, input=stdin)
        assert done.returncode == 1 and words.encode() in done.stderr, done
        assert_one_line(done.stderr.decode())
    assert_nothing_left(daemon, directory, "x")


def check_existing_name(daemon, directory):
    """Refused at once, before anything is read: these pipes never end."""
    good = os.path.join(directory, "good")
    daemon.squall("image", "import", "taken", good)
    daemon.squall("volume", "create", "volume", "--size", "1M")
    for name in ("taken", "volume"):
        print(fails(daemon, "image", "import", name, good, says=[name, "exists"]), end="")
        reader, writer = os.pipe()
        done = subprocess.run([binary("squall"), "image", "import", name, "-"], stdin=reader,
                              env=daemon.environment, stderr=subprocess.PIPE, text=True, timeout=30)
        os.close(reader)
        os.close(writer)
        assert done.returncode == 1 and "exists" in done.stderr, done
        assert_one_line(done.stderr)
    compare(good, daemon.uri("taken"))


class HeldImport:
    """An import that is under way and goes no further: its source stands still.

    source: "pipe" (of known length, half of which is sent), "spool" (of unknown length) or "qcow2"
    (whose qemu-nbd is stopped).
    """

    def __init__(self, daemon, directory, name, source):
        self.directory = directory
        self.writer = None
        arguments, stdin = ["-"], subprocess.PIPE
        if source == "pipe":
            arguments += ["--size", str(16 * MIB)]
        if source == "qcow2":
            arguments, stdin = [os.path.join(directory, "large.qcow2")], subprocess.DEVNULL
        self.process = subprocess.Popen(
            [binary("squall"), "image", "import", name, *arguments], env=daemon.environment,
            stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if source == "qcow2":
            eventually("qemu-nbd runs", lambda: self.helper_started())
        else:
            self.writer = threading.Thread(target=self.process.stdin.write,
                                           args=(os.urandom(8 * MIB),))
            self.writer.start()
            self.writer.join(60)
            assert not self.writer.is_alive(), "the import does not read"
        self.helpers = helpers_of(directory)

    def helper_started(self):
        """Stops the helper as soon as there is one. (qemu-img comes first and ends by itself.)"""
        for helper in helpers_of(self.directory):
            with open(f"/proc/{helper}/cmdline", "rb") as file:
                if file.read().startswith(b"qemu-nbd"):
                    os.kill(helper, signal.SIGSTOP)
                    return True
        return False

    def end(self, how):
        """Sends the signal; the exit status and stderr."""
        self.process.send_signal(how)
        _, stderr = self.process.communicate(timeout=30) if self.writer is None else (
            None, self.wait_and_read())
        return self.process.returncode, stderr.decode()

    def wait_and_read(self):
        self.process.wait(30)  # stdin stays open: the signal alone must end it
        stderr = self.process.stderr.read()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                stream.close()
            except BrokenPipeError:
                pass
        return stderr


def check_signals(daemon, directory):
    for source in ("pipe", "spool", "qcow2"):
        for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            held = HeldImport(daemon, directory, "held", source)
            if source == "pipe":
                eventually("the session is open", lambda: "held" in fails(
                    daemon, "image", "import", "held", os.path.join(directory, "good")))
            status, stderr = held.end(how)
            if how == signal.SIGKILL:
                assert status == -signal.SIGKILL
                eventually("the helper died with the command", lambda: not helpers_of(directory))
            else:
                assert status == 1 and "interrupted" in stderr, (source, how, status, stderr)
                assert_one_line(stderr)
            # The daemon learns of it from the closed connection.
            eventually("the name is free", lambda: daemon.squall(
                "image", "import", "held", os.path.join(directory, "good"),
                check=False).returncode == 0)
            daemon.squall("image", "remove", "held")
            if how == signal.SIGKILL:  # a killed process cannot remove its temporary directory
                for path in glob.glob(os.path.join(directory, "tmp", "*")):
                    run("rm", "-rf", path)
            assert_nothing_left(daemon, directory, "held")
            print(f"{source}, {how.name}: ok")


def check_daemon_dies(daemon, directory):
    """The daemon dies during an import: the command fails, the restarted daemon has nothing."""
    held = HeldImport(daemon, directory, "orphan", "pipe")
    daemon.kill()
    try:
        held.process.stdin.write(os.urandom(8 * MIB))
        held.process.stdin.close()
    except BrokenPipeError:
        pass
    status = held.process.wait(30)
    stderr = held.process.stderr.read().decode()
    assert status == 1, (status, stderr)
    assert_one_line(stderr)
    daemon.start()
    assert_nothing_left(daemon, directory, "orphan")


def check_export(daemon, directory):
    """An export that fails leaves no file, and none is overwritten without being asked."""
    daemon.squall("image", "import", "source", os.path.join(directory, "good"))
    target = os.path.join(directory, "target")
    with open(target, "w") as file:
        file.write("precious")
    fails(daemon, "image", "export", "source", target, says=[target, "--force"])
    with open(target) as file:
        assert file.read() == "precious"
    daemon.squall("image", "export", "source", target, "--force")
    compare(os.path.join(directory, "good"), target)
    fails(daemon, "image", "export", "no-such", os.path.join(directory, "new"), says=["no-such"])
    fails(daemon, "image", "export", "source", "/no/such/directory/file", says=["/no/such"])
    fails(daemon, "image", "export", "source", "/no/such/directory/file.qcow2", says=["/no/such"])
    fails(daemon, "image", "export", "source", os.path.join(directory, "new"), "--format", "vdi",
          says=["vdi"])
    left = [name for name in os.listdir(directory) if "partial" in name or name == "new"]
    assert left == [], left


def main():
    with tempfile.TemporaryDirectory(prefix="squall-failures-") as directory:
        os.mkdir(os.path.join(directory, "tmp"))
        make_sparse(os.path.join(directory, "good"), 4 * MIB)
        large = make_sparse(os.path.join(directory, "large"), 200 * MIB, pieces=200)
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", large, large + ".qcow2")
        environment = {"TMPDIR": os.path.join(directory, "tmp")}
        with Daemon(environment=environment) as daemon:
            run_checks(check_bad_sources, check_existing_name, check_signals, check_daemon_dies,
                       check_export, arguments=(daemon, directory))


if __name__ == "__main__":
    main()
