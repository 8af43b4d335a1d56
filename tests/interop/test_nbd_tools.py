#!/usr/bin/python3
"""Everyday NBD tools on the daemon: listing hundreds of exports, multi-conn copies, maps, qemu-io
scripts with 512-byte requests, qemu-img bench, fio's verify jobs, and that all of it is still there
after the daemon was killed and started again.

SQUALL_EXPORTS (300) and SQUALL_FIO_MIB (24) make it longer.
"""
import hashlib
import os
import tempfile

from support import MIB, Daemon, compare, make_sparse, run, run_checks, run_json

EXPORTS = int(os.environ.get("SQUALL_EXPORTS", "300"))
FIO_MIB = int(os.environ.get("SQUALL_FIO_MIB", "24"))


def check_list(daemon, directory):
    """Each volume, snapshot and image is an export, with its size; nothing else is."""
    daemon.squall("volume", "create", "many", "--size", "1G", "--count", EXPORTS)
    daemon.squall("volume", "create", "listed", "--size", "3M")
    daemon.squall("snapshot", "create", "listed@before")
    daemon.squall("image", "create", "listed-image", "--from", "listed")
    daemon.squall("volume", "resize", "listed", "5M")
    listing = run_json("nbdinfo", "--json", "--list", daemon.uri(""))
    sizes = {export["export-name"]: export["export-size"] for export in listing["exports"]}
    assert len(sizes) == len(listing["exports"])
    wanted = {f"many-{i}": 1024 * MIB for i in range(1, EXPORTS + 1)}
    wanted.update({"listed": 5 * MIB, "listed@before": 3 * MIB, "listed-image": 3 * MIB})
    assert sizes == wanted
    read_only = {e["export-name"] for e in listing["exports"] if e["is_read_only"]}
    assert read_only == {"listed@before", "listed-image"}
    assert run("nbdinfo", "--size", daemon.uri("many-7")).strip() == str(1024 * MIB)
    run("nbdinfo", daemon.uri("no-such"), status=1)
    handles = [daemon.nbd(f"many-{i}") for i in range(1, EXPORTS + 1)]
    for i, handle in enumerate(handles):
        handle.pwrite(b"%06d" % i * 100, i * 600)
    for i, handle in enumerate(handles):
        assert handle.pread(600, i * 600) == b"%06d" % i * 100
        handle.shutdown()
    daemon.squall("volume", "remove", *[f"many-{i}" for i in range(1, EXPORTS + 1)])


def check_map(daemon, directory):
    """Three runs, seen alike by nbdinfo --map and qemu-img map, before and after a snapshot moved
    the data from the journal into the pool."""
    daemon.squall("volume", "create", "map", "--size", "8M")
    run("qemu-io", "-f", "raw", "-c", "write -P 7 1M 256k", "-c", "write -P 8 2M 64k",
        "-c", "discard 2M 64k", daemon.uri("map"))
    for snapshot in (None, "map@s"):
        if snapshot:
            daemon.squall("snapshot", "create", snapshot)
        for export in filter(None, ("map", snapshot)):
            uri = daemon.uri(export)
            runs = [(e["offset"], e["length"], e["type"])
                    for e in run_json("nbdinfo", "--map", "--json", uri)]
            assert runs == [(0, MIB, 3), (MIB, 256 << 10, 0),
                            (MIB + (256 << 10), 7 * MIB - (256 << 10), 3)], runs
            extents = run_json("qemu-img", "map", "--output=json", "-f", "raw", uri)
            assert [(e["start"], e["length"], e["zero"]) for e in extents] == [
                (offset, length, kind == 3) for offset, length, kind in runs], extents


def check_copies(daemon, directory):
    """nbdcopy over several connections, and qemu-img with several requests, both ways."""
    source, back = os.path.join(directory, "source"), os.path.join(directory, "back")
    make_sparse(source, 96 * MIB, pieces=60)
    for volume, options in (("copy", ()), ("copy-stateless", ("--stateless",))):
        daemon.squall("volume", "create", volume, "--size", "96M", *options)
        uri = daemon.uri(volume)
        run("nbdcopy", "--connections=4", "--requests=32", "--flush", source, uri)
        compare(source, uri)
        run("nbdcopy", "--connections=4", "--threads=2", uri, back)
        run("cmp", source, back)
        run("qemu-io", "-f", "raw", "-c", "write -P 0xee 0 96M", uri)
        run("qemu-img", "convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", source, uri)
        compare(source, uri)
        run("qemu-img", "convert", "-W", "-m", "8", "-f", "raw", "-O", "raw", uri, back)
        run("cmp", source, back)
    # From one export to another, and a difference is a difference.
    daemon.squall("volume", "create", "copy2", "--size", "96M")
    run("nbdcopy", daemon.uri("copy"), daemon.uri("copy2"))
    compare(daemon.uri("copy"), daemon.uri("copy2"))
    run("qemu-io", "-f", "raw", "-c", "write -P 0x77 12345 1", daemon.uri("copy2"))
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", daemon.uri("copy"), daemon.uri("copy2"),
        status=1)


def check_qemu_io(daemon, directory):
    """512-byte requests at odd places; what lies beside them stays as it was."""
    daemon.squall("volume", "create", "io", "--size", "64M")
    daemon.squall("volume", "create", "io-stateless", "--size", "64M", "--stateless")
    for uri in (daemon.uri("io"), daemon.uri("io-stateless")):
        run("qemu-io", "-f", "raw", "-c", "write -P 0xaa 0 1M", "-c", "write -P 0xbb 512 512",
            "-c", "write -P 0xcc -f 4608 1024", "-c", "write -P 0xdd 65024 1024",
            "-c", "read -P 0xaa 0 512", "-c", "read -P 0xbb 512 512", "-c", "read -P 0xaa 1024 3584",
            "-c", "read -P 0xcc 4608 1024", "-c", "read -P 0xdd 65024 1024",
            "-c", "write -z 8192 512", "-c", "write -z -u 12288 8192", "-c", "discard 262144 131072",
            "-c", "flush", uri)
        # Another connection, hence nothing of qemu's own.
        run("qemu-io", "-f", "raw", "-c", "read -P 0 8192 512", "-c", "read -P 0xaa 8704 3584",
            "-c", "read -P 0 12288 8192", "-c", "read -P 0 262144 131072",
            "-c", "read -P 0xaa 393216 655360", "-c", "read -P 0 1M 63M", uri)
        run("qemu-io", "-f", "raw", "-c", "aio_write -P 1 2M 1M", "-c", "aio_write -P 2 3M 1M",
            "-c", "aio_write -z 4M 1M", "-c", "aio_flush", "-c", "read -P 1 2M 1M",
            "-c", "read -P 2 3M 1M", "-c", "read -P 0 4M 1M", uri)
        run("qemu-io", "-f", "raw", "-c", "write 64M 512", uri, status=1)


def check_qemu_img_bench(daemon, directory):
    """Many requests at once, written with flushes, read, and unaligned; all of it is there."""
    daemon.squall("volume", "create", "bench", "--size", "32M")
    for uri in (daemon.uri("bench"), daemon.uri("io-stateless")):
        bench = ("qemu-img", "bench", "-f", "raw", "-t", "none")
        run(*bench, "-w", "--pattern=71", "-c", "2000", "-d", "64", "-s", "4k",
            "--flush-interval=64", uri)
        run(*bench, "-c", "2000", "-d", "64", "-s", "4k", uri)
        run(*bench, "-w", "--pattern=72", "-c", "1000", "-d", "32", "-s", "1536", "-S", "3k",
            "-o", "8388608", "--flush-interval=100", "--no-drain", uri)
        run("qemu-io", "-f", "raw", "-c", "read -P 71 0 8000k", "-c", "read -P 72 8M 1536",
            "-c", "read -P 72 8391680 1536", "-c", "read -P 72 11457536 1536", uri)


def check_fio(daemon, directory):
    jobs = {"mixed": ("--rw=randwrite", "--bsrange=512-128k", "--iodepth=32"),
            "unaligned": ("--rw=randrw", "--bsrange=512-128k", "--bs_unaligned=1", "--iodepth=8",
                          "--verify_backlog=64"),
            "trims": ("--rw=randtrimwrite", "--bs=128k", "--iodepth=1"),
            "direct": ("--rw=randwrite", "--bsrange=512-128k", "--iodepth=16")}
    for name, options in jobs.items():
        create = ("--cache", "directsync") if name == "direct" else ()
        daemon.squall("volume", "create", f"fio-{name}", "--size", f"{FIO_MIB}M", *create)
        run("fio", f"--name={name}", "--ioengine=nbd", f"--uri={daemon.uri(f'fio-{name}')}",
            f"--size={FIO_MIB}m", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
            "--verify_state_save=0", *options, cwd=directory)


def hashes(daemon):
    result = {}
    for volume in daemon.json("volume", "list"):
        handle = daemon.nbd(volume["name"])
        content = hashlib.sha256()
        for offset in range(0, volume["size_bytes"], 16 * MIB):
            content.update(handle.pread(min(16 * MIB, volume["size_bytes"] - offset), offset))
        handle.shutdown()
        result[volume["name"]] = content.hexdigest()
    return result


def check_restart(daemon, directory):
    """A killed daemon comes back with the same bytes, a stopped one, too; scratch of stateless
    volumes lives as long as they, or until the host's next boot."""
    before = hashes(daemon)
    daemon.restart(crash=True)
    after = hashes(daemon)
    assert after == before, [name for name in before if before[name] != after.get(name)]
    daemon.restart()
    after = hashes(daemon)
    assert after == before, [name for name in before if before[name] != after.get(name)]


def main():
    with tempfile.TemporaryDirectory(prefix="squall-tools-") as directory, Daemon() as daemon:
        run_checks(check_list, check_map, check_copies, check_qemu_io, check_qemu_img_bench,
                   check_fio, check_restart, arguments=(daemon, directory))


if __name__ == "__main__":
    main()
