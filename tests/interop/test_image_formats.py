#!/usr/bin/python3
"""Import and export of a template-like image: an ext4 file system of real files, sparse, raw and in
every format that is read, through a file, stdin and a URL. What comes out must be what went in, as
qemu-img sees it.

SQUALL_TREE names the directory whose files fill the image, SQUALL_TREE_GIB (2) its size.
"""
import os
import subprocess
import tempfile
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler

from support import KIB, MIB, Daemon, binary, compare, make_sparse, run, run_checks, run_json

TREE = os.environ.get("SQUALL_TREE", "/usr/lib/python3")
SIZE = int(os.environ.get("SQUALL_TREE_GIB", "2")) << 30
FORMATS = {"qcow2": ("qcow2",), "compressed": ("qcow2", "-c"), "vmdk": ("vmdk",), "vdi": ("vdi",),
           "vhdx": ("vhdx",)}


def make_template(path):
    with open(path, "wb") as file:
        file.truncate(SIZE)
    run("mkfs.ext4", "-q", "-F", "-d", TREE, path)
    return path


def check_export(daemon, directory, name, source):
    """Both formats of export hold what `source` holds, and the raw file is as sparse."""
    raw, qcow2 = os.path.join(directory, "out.raw"), os.path.join(directory, "out.qcow2")
    daemon.squall("image", "export", name, raw)
    compare(source, raw)
    assert os.stat(raw).st_size == os.stat(source).st_size
    assert os.stat(raw).st_blocks * 512 < os.stat(source).st_blocks * 512 * 1.1 + MIB
    daemon.squall("image", "export", name, qcow2)
    assert run_json("qemu-img", "info", "--output=json", qcow2)["format"] == "qcow2"
    run("qemu-img", "check", qcow2)
    compare(source, qcow2, b_format="qcow2")
    os.remove(raw)
    os.remove(qcow2)


def check_raw(daemon, directory, template):
    daemon.squall("image", "import", "raw", template, "--verify")
    image = daemon.json("image", "show", "raw")
    assert image["size_bytes"] == SIZE and image["source"] == template, image
    check_export(daemon, directory, "raw", template)
    compare(template, daemon.uri("raw"))
    exported = os.path.join(directory, "fsck")
    daemon.squall("image", "export", "raw", exported)
    run("e2fsck", "-fn", exported)


def check_formats(daemon, directory, template):
    for name, (kind, *options) in FORMATS.items():
        source = os.path.join(directory, f"source-{name}.{kind}")
        run("qemu-img", "convert", *options, "-f", "raw", "-O", kind, template, source)
        daemon.squall("image", "import", name, source)
        os.remove(source)
        assert daemon.json("image", "show", name)["size_bytes"] == SIZE
        check_export(daemon, directory, name, template)


def check_stdin(daemon, directory, template):
    """From a pipe of unknown and of known length, and from a file."""
    command = [binary("squall"), "image", "import"]
    options = {"env": daemon.environment, "check": True, "timeout": 120}
    small = make_sparse(os.path.join(directory, "small"), 20 * MIB + 512)
    for name, source, more in (("piped", template, []), ("sized", small, ["--size", 20 * MIB + 512])):
        with subprocess.Popen(["cat", source], stdout=subprocess.PIPE) as cat:
            subprocess.run([*command, name, "-", *map(str, more)], stdin=cat.stdout, **options)
        compare(source, daemon.uri(name))
    with open(small, "rb") as file:
        subprocess.run([*command, "redirected", "-", "--verify"], stdin=file, **options)
    compare(small, daemon.uri("redirected"))
    assert daemon.json("image", "show", "piped")["source"] == "stdin"


def check_sizes(daemon, directory, template):
    """Sizes that are no multiple of 4096, or of 512: there the last sector is filled with zeros.
    An image of zeros takes no room in the pool."""
    for size in (1, 511, 512, 513, 4095, 4097, 64 * KIB + 512, 3 * MIB + 1000, MIB + 4096 + 1):
        path = os.path.join(directory, f"odd-{size}")
        with open(path, "wb") as file:
            file.write(os.urandom(size))
        daemon.squall("image", "import", f"odd-{size}", path, "--verify")
        padded = -(-size // 512) * 512
        assert daemon.json("image", "show", f"odd-{size}")["size_bytes"] == padded
        handle = daemon.nbd(f"odd-{size}")
        with open(path, "rb") as file:
            assert handle.pread(padded, 0) == file.read() + bytes(padded - size)
        handle.shutdown()
    before = daemon.json("status")["pool_bytes"]
    zeros = os.path.join(directory, "zeros")
    with open(zeros, "wb") as file:
        file.write(bytes(5 * MIB))
        file.truncate(1 << 40)
    daemon.squall("image", "import", "zeros", zeros, "--verify")
    assert daemon.json("status")["pool_bytes"] - before < 64 * KIB
    assert run_json("nbdinfo", "--map", "--json", daemon.uri("zeros"))[0]["type"] == 3
    handle = daemon.nbd("zeros")
    assert handle.pread(MIB, (1 << 40) - MIB) == bytes(MIB)
    handle.shutdown()
    daemon.squall("image", "export", "zeros", zeros + ".out")
    assert os.stat(zeros + ".out").st_size == 1 << 40 and os.stat(zeros + ".out").st_blocks == 0


def check_overlay(daemon, directory, template):
    """A qcow2 overlay comes with what it lies over, and the command says so."""
    base, overlay = os.path.join(directory, "base"), os.path.join(directory, "overlay.qcow2")
    make_sparse(base, 8 * MIB)
    run("qemu-img", "create", "-f", "qcow2", "-b", base, "-F", "raw", overlay)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 1M 70k", overlay)
    done = daemon.squall("image", "import", "overlay", overlay)
    assert base in done.stderr and done.stderr.count("\n") == 1, done.stderr
    compare(overlay, daemon.uri("overlay"), a_format="qcow2")


class QuietHandler(SimpleHTTPRequestHandler):
    """Files with byte ranges, which nbdkit's curl plugin needs."""

    def log_message(self, *arguments):
        pass

    def send_head(self):
        try:
            file = open(self.translate_path(self.path), "rb")
        except OSError:
            return self.send_error(404)
        size = os.fstat(file.fileno()).st_size
        first, last = 0, size - 1
        if span := self.headers.get("Range"):
            low, high = span.removeprefix("bytes=").split("-")
            first, last = int(low), min(int(high or last), last)
        self.send_response(206 if span else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        if span:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        file.seek(first)
        self.rest = last - first + 1
        return file

    def copyfile(self, source, output):
        output.write(source.read(self.rest))


def check_url(daemon, directory, template):
    raw = make_sparse(os.path.join(directory, "web.raw"), 8 * MIB + 512)
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw,
        os.path.join(directory, "web.qcow2"))
    server = HTTPServer(("127.0.0.1", 0),
                        lambda *arguments: QuietHandler(*arguments, directory=directory))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for kind in ("raw", "qcow2"):
            url = f"http://user:secret@127.0.0.1:{server.server_port}/web.{kind}"
            daemon.squall("image", "import", f"web-{kind}", url, "--verify")
            compare(raw, daemon.uri(f"web-{kind}"))
            source = daemon.json("image", "show", f"web-{kind}")["source"]
            assert "secret" not in source and f"/web.{kind}" in source, source
        missing = f"http://127.0.0.1:{server.server_port}/missing"
        failed = daemon.squall("image", "import", "missing", missing, check=False)
        assert failed.returncode == 1 and failed.stderr.count("\n") == 1, failed
    finally:
        server.shutdown()
        server.server_close()


def check_restart(daemon, directory, template):
    """Images survive a killed daemon."""
    daemon.restart(crash=True)
    for name in ("raw", "compressed", "piped"):
        compare(template, daemon.uri(name))


def main():
    with tempfile.TemporaryDirectory(prefix="squall-formats-") as directory, Daemon() as daemon:
        template = make_template(os.path.join(directory, "template.raw"))
        print(f"template: {os.stat(template).st_blocks * 512 // MIB} MiB of data")
        run_checks(check_raw, check_formats, check_stdin, check_sizes, check_overlay, check_url,
                   check_restart, arguments=(daemon, directory, template))


if __name__ == "__main__":
    main()
