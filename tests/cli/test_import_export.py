#!/usr/bin/python3
"""Images in every format, in and out again, byte for byte; and imports that do not end well."""

import base64
import http.server
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from squall_daemon import Daemon, binary

MIB = 1 << 20
FORMATS = ("qcow2", "vmdk", "vdi", "vhdx")


def make_disk(path, size, seed=1):
    """Sparse, with data at odd places, zeros that are no holes, and a last sector in use."""
    noise = random.Random(seed)
    with open(path, "wb") as file:
        file.truncate(size)
        for _ in range(40):
            at = noise.randrange(0, size - 70000)
            file.seek(at)
            file.write(noise.randbytes(noise.choice((512, 4096, 5000, 65536))))
        file.seek(noise.randrange(0, size // MIB) * MIB)
        file.write(bytes(100000))
        file.seek(size - 512)
        file.write(noise.randbytes(512))


class RangeHandler(http.server.BaseHTTPRequestHandler):
    """Serves files with byte ranges, which http.server's own handler lacks."""

    root = None

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, with_body):
        if self.headers.get("Authorization") != "Basic " + base64.b64encode(b"user:s@cret").decode():
            self.send_error(401)
            return
        path = os.path.join(self.root, self.path.lstrip("/"))
        if not os.path.isfile(path):
            self.send_error(404)
            return
        size = os.path.getsize(path)
        begin, end = 0, size
        if self.headers.get("Range"):
            begin, end = self.headers["Range"].removeprefix("bytes=").split("-")
            begin, end = int(begin), min(int(end) + 1, size) if end else size
        self.send_response(206 if self.headers.get("Range") else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        if with_body:
            with open(path, "rb") as file:
                file.seek(begin)
                self.wfile.write(file.read(end - begin))

    def log_message(self, *args):
        pass


class ImportExport(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon()
        cls.daemon.__enter__()
        cls.addClassCleanup(cls.daemon.__exit__, None, None, None)
        cls.directory = os.path.join(cls.daemon.home, "files")
        os.mkdir(cls.directory)
        cls.raw = os.path.join(cls.directory, "disk.raw")
        make_disk(cls.raw, 96 * MIB + 512)

    def path(self, name):
        return os.path.join(self.directory, name)

    def assert_same(self, a, b):
        result = subprocess.run(["qemu-img", "compare", a, b], capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def images(self):
        return [image["name"] for image in self.daemon.json("image", "list")]

    def assert_nothing_left(self, name):
        self.assertNotIn(name, self.images())
        # The name is free again and the session's disk is gone.
        self.daemon.squall("image", "import", name, self.raw)
        self.daemon.squall("image", "remove", name)

    def test_raw(self):
        self.daemon.squall("image", "import", "raw", self.raw, "--verify")
        info = self.daemon.json("image", "show", "raw")
        self.assertEqual(info["size_bytes"], 96 * MIB + 512)
        self.assertEqual(info["source"], self.raw)
        out = self.path("out.raw")
        self.daemon.squall("image", "export", "raw", out)
        self.assertEqual(subprocess.run(["cmp", self.raw, out]).returncode, 0)
        self.assertLess(os.stat(out).st_blocks * 512, 16 * MIB)
        self.assert_same(self.raw, out)

    def test_every_format(self):
        for form in FORMATS:
            with self.subTest(format=form):
                source = self.path("in." + form)
                subprocess.run(["qemu-img", "convert", "-O", form, self.raw, source], check=True)
                self.daemon.squall("image", "import", "f-" + form, source, "--verify")
                out = self.path("out-" + form + ".raw")
                self.daemon.squall("image", "export", "f-" + form, out)
                # Formats round a size up to what they can say.
                self.assert_same(source, out)
                again = self.path("again." + form)
                subprocess.run(["qemu-img", "convert", "-O", form, out, again], check=True)
                self.assert_same(self.raw, again)

    def test_qcow2_export(self):
        self.daemon.squall("image", "import", "q", self.raw)
        out = self.path("out.qcow2")
        self.daemon.squall("image", "export", "q", out)
        info = subprocess.run(["qemu-img", "info", out], capture_output=True, text=True).stdout
        self.assertIn("file format: qcow2", info)
        self.assertLess(os.stat(out).st_size, 16 * MIB)
        self.assert_same(self.raw, out)
        forced = self.path("odd name,with=signs")
        self.daemon.squall("image", "export", "q", forced, "--format", "qcow2")
        self.assert_same(self.raw, forced)

    def test_compressed_qcow2_and_an_overlay(self):
        base = self.path("base.qcow2")
        subprocess.run(["qemu-img", "convert", "-c", "-O", "qcow2", self.raw, base], check=True)
        overlay = self.path("overlay.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base,
                        overlay], check=True)
        subprocess.run(["qemu-io", "-c", "write -P 7 1M 64k", overlay], check=True,
                       stdout=subprocess.DEVNULL)
        result = self.daemon.squall("image", "import", "overlay", overlay, "--verify")
        self.assertIn("base.qcow2", result.stderr)
        out = self.path("overlay.raw")
        self.daemon.squall("image", "export", "overlay", out)
        self.assert_same(overlay, out)

    def test_stdin(self):
        with open(self.raw, "rb") as file:
            content = file.read()
        self.daemon.squall("image", "import", "pipe", "-", "--verify", input=content)
        self.daemon.squall("image", "import", "sized", "-", "--size", "128M", input=content)
        self.assertEqual(self.daemon.json("image", "show", "sized")["size_bytes"], 128 * MIB)
        for name in ("pipe", "sized"):
            out = self.path(name + ".raw")
            self.daemon.squall("image", "export", name, out)
            self.assert_same(self.raw, out)
        with open(self.raw, "rb") as file:
            subprocess.run([binary("squall"), "image", "import", "file", "-", "--verify"],
                           stdin=file, env=self.daemon.environment, check=True,
                           stdout=subprocess.DEVNULL)
        self.assertEqual(self.daemon.json("image", "show", "file")["size_bytes"], 96 * MIB + 512)
        result = self.daemon.squall("image", "import", "long", "-", "--size", "1M", input=content,
                                    check=False)
        self.assertEqual(result.returncode, 1)
        self.assert_nothing_left("long")

    def test_http(self):
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", self.raw, self.path("web.qcow2")],
                       check=True)
        RangeHandler.root = self.directory
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), RangeHandler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://user:s%40cret@127.0.0.1:{server.server_port}/"
            self.daemon.squall("image", "import", "web-raw", url + "disk.raw", "--verify")
            self.daemon.squall("image", "import", "web-qcow2", url + "web.qcow2", "--verify")
            missing = self.daemon.squall("image", "import", "web-none", url + "none", check=False)
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
        self.assertEqual(missing.returncode, 1)
        self.assertIn("404", missing.stderr)
        self.assertNotIn("cret", missing.stderr)
        self.assertNotIn("cret", self.daemon.json("image", "show", "web-raw")["source"])
        for name in ("web-raw", "web-qcow2"):
            out = self.path(name + ".raw")
            self.daemon.squall("image", "export", name, out)
            self.assert_same(self.raw, out)

    def test_volumes_and_snapshots(self):
        self.daemon.squall("image", "import", "base", self.raw)
        self.daemon.squall("volume", "create", "v", "--from", "base")
        self.daemon.squall("snapshot", "create", "v@s")
        handle = self.daemon.nbd("v")
        handle.pwrite(b"\x55" * 4096, 8 * MIB)
        handle.flush()
        handle.shutdown()
        for disk, name in (("v@s", "snapshot.raw"), ("v", "volume.qcow2")):
            self.daemon.squall("volume", "export", disk, self.path(name))
        self.assert_same(self.raw, self.path("snapshot.raw"))
        shutil.copy(self.raw, self.path("changed.raw"))
        with open(self.path("changed.raw"), "r+b") as file:
            file.seek(8 * MIB)
            file.write(b"\x55" * 4096)
        self.assert_same(self.path("changed.raw"), self.path("volume.qcow2"))

    def test_export_does_not_overwrite(self):
        self.daemon.squall("image", "import", "once", self.raw)
        for name in ("there.raw", "there.qcow2"):
            target = self.path(name)
            with open(target, "w") as file:
                file.write("precious")
            refused = self.daemon.squall("image", "export", "once", target, check=False)
            self.assertEqual(refused.returncode, 1)
            self.assertIn("--force", refused.stderr)
            with open(target) as file:
                self.assertEqual(file.read(), "precious")
            self.daemon.squall("image", "export", "once", target, "--force")
            self.assert_same(self.raw, target)
        self.assertEqual([n for n in os.listdir(self.directory) if "partial" in n], [])

    def test_a_taken_name_is_refused_before_anything_is_read(self):
        self.daemon.squall("image", "import", "taken", self.raw)
        process = subprocess.Popen([binary("squall"), "image", "import", "taken", "-"],
                                   env=self.daemon.environment, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertEqual(process.wait(30), 1)  # with stdin still open
        self.assertIn("taken exists", process.communicate()[1])

    def test_bad_sources(self):
        with open(self.path("broken.qcow2"), "wb") as file:
            file.write(b"QFI\xfb\x00\x00\x00\x03" + bytes(5000))
        with open(self.path("empty"), "wb"):
            pass
        for args, word in (
            ((self.path("none"),), "none"),
            ((self.path("empty"),), "empty"),
            ((self.directory,), "directory"),
            ((self.path("broken.qcow2"),), "broken"),
            ((self.raw, "--format", "nonsense"), "nonsense"),
            ((self.raw, "--format", "vmdk"), "VMDK"),
            ((self.raw, "--size", "1G"), "--size"),
            ((self.raw, "--store", "none"), "none"),
            (("http://127.0.0.1:1/x",), "127.0.0.1"),
        ):
            with self.subTest(args=args):
                result = self.daemon.squall("image", "import", "bad", *args, check=False)
                self.assertEqual(result.returncode, 1, result.stderr)
                self.assertRegex(result.stderr, r"\Asquall: .*\n\Z")
                self.assertIn(word, result.stderr)
        self.assert_nothing_left("bad")

    def test_a_raw_disk_that_looks_like_something_else(self):
        disk = self.path("luks.raw")
        shutil.copy(self.raw, disk)
        with open(disk, "r+b") as file:
            file.write(b"LUKS\xba\xbe\x00\x01" + bytes(504))
        self.daemon.squall("image", "import", "luks", disk, "--verify")
        self.assertEqual(self.daemon.json("image", "show", "luks")["size_bytes"],
                         os.path.getsize(disk))

    def test_an_interrupted_import_leaves_nothing(self):
        source = self.path("in-interrupt.qcow2")
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", self.raw, source], check=True)
        for stop in (signal.SIGINT, signal.SIGKILL):
            for arguments in (["-", "--size", "96M"], ["-"], [source]):
                with self.subTest(signal=stop, arguments=arguments):
                    self.interrupt_import(stop, arguments)

    def interrupt_import(self, stop, arguments):
        temporary = self.path("tmp")
        os.makedirs(temporary, exist_ok=True)
        environment = dict(self.daemon.environment, TMPDIR=temporary)
        process = subprocess.Popen([binary("squall"), "image", "import", "cut", *arguments],
                                   env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        if arguments[0] == "-":
            process.stdin.write(os.urandom(8 * MIB))
            process.stdin.flush()
            time.sleep(0.2)
        else:
            time.sleep(random.random() * 0.1)
        process.send_signal(stop)
        _, error = process.communicate(timeout=60)
        if process.returncode == 0:  # it was quicker
            self.daemon.squall("image", "remove", "cut")
        elif stop == signal.SIGINT and process.returncode == 1:
            self.assertIn(b"interrupted", error)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if self.daemon.squall("image", "import", "cut", self.raw, check=False).returncode == 0:
                break
            time.sleep(0.05)
        self.daemon.squall("image", "remove", "cut")
        left = subprocess.run(["pgrep", "-f", "qemu-nbd.*in-interrupt"], capture_output=True)
        self.assertEqual(left.stdout, b"")
        if stop == signal.SIGINT:
            self.assertEqual(os.listdir(temporary), [])

    def test_an_interrupted_export_leaves_no_file(self):
        self.daemon.squall("image", "import", "gone", self.raw)
        for name in ("cut.raw", "cut.qcow2"):
            process = subprocess.Popen(
                [binary("squall"), "image", "export", "gone", self.path(name)],
                env=self.daemon.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            time.sleep(0.03)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
            if process.returncode != 0:
                left = [n for n in os.listdir(self.directory) if n.startswith(name)]
                self.assertEqual(left, [])
            elif os.path.exists(self.path(name)):
                self.assert_same(self.raw, self.path(name))


if __name__ == "__main__":
    unittest.main()
