#!/usr/bin/python3
"""The tools people use on NBD: nbdinfo, nbdcopy, qemu-img, qemu-io and fio, against one writable
export (NBD_URI or the first argument, at least 64 MiB, its content is destroyed).
"""
import json
import os
import random
import subprocess
import sys
import tempfile

MIB = 1 << 20
URI = sys.argv[1] if len(sys.argv) > 1 else os.environ["NBD_URI"]


def run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=240, **options)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
    return done.stdout


def make_image(path, size):
    """Data, zeros and holes, at places that are not all aligned."""
    rng = random.Random(5)
    with open(path, "wb") as image:
        image.truncate(size)
        for _ in range(40):
            image.seek(rng.randrange(size - MIB))
            image.write(rng.randbytes(rng.choice((511, 4096, 70000, MIB))))


def can_flush():
    """False where every write is durable at once: then there is nothing to flush."""
    return subprocess.run(["nbdinfo", "--can", "flush", URI]).returncode == 0


def check_nbdinfo(directory):
    info = json.loads(run("nbdinfo", "--json", URI))["exports"][0]
    assert info["export-size"] >= 64 * MIB and info["can_multi_conn"] and info["can_fua"]
    assert info["contexts"] == ["base:allocation"]
    extents = json.loads(run("nbdinfo", "--map", "--json", URI))
    assert sum(extent["length"] for extent in extents) == info["export-size"]


def check_nbdcopy(directory):
    source, back = os.path.join(directory, "source"), os.path.join(directory, "back")
    size = json.loads(run("nbdinfo", "--json", URI))["exports"][0]["export-size"]
    make_image(source, size)
    run("nbdcopy", *(["--flush"] if can_flush() else []), source, URI)
    run("nbdcopy", URI, back)
    run("cmp", source, back)
    run("nbdcopy", "--synchronous", URI, back)
    run("cmp", source, back)


def check_qemu_img(directory):
    source = os.path.join(directory, "source")
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, URI)
    qcow2 = os.path.join(directory, "copy.qcow2")
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", URI, qcow2)
    run("qemu-io", "-f", "raw", "-c", f"write -z 0 {64 * MIB}", URI)
    run("qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", qcow2, URI)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", URI, qcow2)
    extents = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", URI))
    assert any(extent["zero"] for extent in extents) and any(extent["data"] for extent in extents)


def check_qemu_io(directory):
    run("qemu-io", "-f", "raw", "-c", "write -P 0x11 0 1M", "-c", "write -P 0x22 -f 513 7000",
        "-c", "read -P 0x22 513 7000", "-c", "read -P 0x11 0 513", "-c", "write -z -u 64k 64k",
        "-c", "read -P 0 64k 64k", "-c", "discard 128k 128k", "-c", "flush",
        "-c", "aio_write -P 0x33 1M 2M", "-c", "aio_flush", "-c", "read -P 0x33 1M 2M", URI)


def check_fio(directory):
    job = ["fio", "--name=verify", "--ioengine=nbd", f"--uri={URI}", "--size=48m",
           "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randrepeat=1"]
    run(*job, "--rw=randwrite", "--bsrange=512-256k", "--bs_unaligned=1", "--iodepth=32",
        cwd=directory)
    run(*job, "--rw=randwrite", "--bs=4k", "--iodepth=64", "--io_size=16m",
        *(["--fsync=32"] if can_flush() else []), cwd=directory)
    # Trims between writes; what was not trimmed since is verified.
    run(*job, "--rw=randtrimwrite", "--bs=64k", "--iodepth=1", cwd=directory)


def main():
    with tempfile.TemporaryDirectory(prefix="squall-nbd-tools-") as directory:
        for check in (check_nbdinfo, check_nbdcopy, check_qemu_img, check_qemu_io, check_fio):
            check(directory)
            print(f"{check.__name__}: ok", flush=True)


if __name__ == "__main__":
    main()
