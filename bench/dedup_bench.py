#!/usr/bin/python3
"""What deduplication saves on real disk images: bytes stored against the ideal, and its cost.

    bench/dedup_bench.py                 # all; about half an hour
    bench/dedup_bench.py table           # one of: table, daemon

Three cases, made under SQUALL_TEST_DIR (else /tmp) and removed at the end:

packages  the template (packaging/make-template), then the same with 260 MiB of packages added
release   the template, then a minimal file system of the next Debian release (debootstrap)
volumes   the template, then 50 clones that each write a file of their own and install one package

The ideal stores each distinct 4 KiB block once, in full chunks, and nothing else. `table` packs the
images with dedup_bench for each chunk size and sampling rate; `daemon` imports and writes them into
a real daemon with its defaults. Prints Markdown, as docs/PERFORMANCE.md has it. Packages come from
this machine's apt sources; a release that cannot be had is left out, and the output says so.
"""

import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "lib"))

from guest import template  # noqa: E402
from squall_daemon import Daemon, binary  # noqa: E402

MIB = 1 << 20
BLOCK = 4096
VOLUMES = int(os.environ.get("SQUALL_BENCH_VOLUMES", "50"))
ADDED = ["libreoffice-core", "golang-1.19-src"]
INSTALLED = ["git", "vim-runtime"]
RELEASE = "trixie"


def run(*command, **arguments):
    return subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, **arguments).stdout


def table(rows):
    print()
    for i, row in enumerate(rows):
        print("| " + " | ".join(map(str, row)) + " |")
        if i == 0:
            print("|" + "---|" * len(row))
    sys.stdout.flush()


def unpack(work, packages):
    """A tree with the packages' files."""
    tree = work / ("tree-" + packages[0])
    downloads = work / ("debs-" + packages[0])
    downloads.mkdir()
    run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *packages, cwd=downloads)
    for package in sorted(downloads.iterdir()):
        run("dpkg-deb", "-x", package, tree)
    return tree


def debugfs_commands(tree, destination):
    """What makes debugfs write a tree into a file system."""
    yield f"mkdir {destination}"
    for directory, names, files in os.walk(tree):
        names.sort()
        inside = destination + directory[len(str(tree)):]
        if inside != destination:
            yield f"mkdir {inside}"
        yield f"cd {inside}"
        for name in sorted(files):
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path) and " " not in path:
                yield f"write {path} {name}"


def write_into(image, commands, undo=None):
    keep = ["-z", undo] if undo else []
    run("debugfs", *keep, "-w", "-f", "-", image, input="\n".join(commands) + "\n")


def copy_of(image, target):
    run("cp", "--sparse=always", image, target)
    return target


def second_release(work):
    tree = work / "release"
    mirror = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()
    try:
        run("debootstrap", "--variant=minbase", RELEASE, tree, mirror[0])
    except (subprocess.CalledProcessError, IndexError):
        return None
    shutil.rmtree(tree / "var/cache/apt/archives", ignore_errors=True)
    image = work / "release.raw"
    run("mke2fs", "-q", "-t", "ext4", "-d", tree, image, "4G")
    shutil.rmtree(tree)
    return image


def changed_blocks(image, parent, target):
    """A sparse file of the blocks of `image` that differ from `parent`: what a clone writes."""
    with open(image, "rb") as new, open(parent, "rb") as old, open(target, "wb") as out:
        out.truncate(os.path.getsize(image))
        for at, _ in data_pieces(new):
            a = os.pread(new.fileno(), MIB, at)
            b = os.pread(old.fileno(), MIB, at)
            for i in range(0, len(a), BLOCK) if a != b else ():
                if a[i : i + BLOCK] != b[i : i + BLOCK]:
                    os.pwrite(out.fileno(), a[i : i + BLOCK], at + i)
    return target


def data_pieces(file):
    """(offset, length) of what is no hole, in pieces of up to 1 MiB."""
    at, size = 0, os.path.getsize(file.name)
    while at < size:
        try:
            at = os.lseek(file.fileno(), at, os.SEEK_DATA) // BLOCK * BLOCK
        except OSError:  # no data behind `at`
            return
        end = min(at + MIB, os.lseek(file.fileno(), at, os.SEEK_HOLE))
        yield at, end - at
        at = end


def install_volumes(work, base):
    """What each volume writes: first a file of its own, so that the package lies elsewhere."""
    tree = unpack(work, INSTALLED)
    image = copy_of(base, work / "volume.raw")
    own, undo = work / "own", work / "undo.e2undo"
    volumes = []
    for i in range(VOLUMES):
        chance = random.Random(i)
        own.write_bytes(chance.randbytes(chance.randint(1, 512) * BLOCK))
        write_into(image, [f"write {own} own-file", *debugfs_commands(tree, "/opt/installed")], undo)
        volumes.append(changed_blocks(image, base, work / f"volume-{i}.raw"))
        run("e2undo", undo, image)
        undo.unlink()
    image.unlink()
    return volumes


FIELDS = ("content", "stored", "records", "shared", "entries", "index", "rate", "cpu_s", "reads",
          "runs")


def pack(images, *options):
    out = run("nice", binary("dedup_bench"), *options, *images)
    return dict(zip(FIELDS, map(float, out.split())))


def mib(value):
    return f"{value / MIB:,.1f}"


def case_table(name, images, rates, chunks=(16, 32, 64)):
    off = pack(images, "--off")
    ideal = pack(images, "--ideal")
    print(f"\n{name}: {mib(off['content'])} MiB of content; without deduplication "
          f"{mib(off['stored'])} MiB stored, {off['cpu_s'] / off['content'] * MIB * 1e3:.2f} ms of "
          f"processor time a MiB; ideal {mib(ideal['stored'])} MiB")
    rows = [("chunk", "one of", "stored MiB", "of the possible saving", "records", "index entries",
             "index KiB", "ms a MiB")]
    for chunk in chunks:
        for rate in rates:
            got = pack(images, "--chunk-kib", chunk, "--rate", rate)
            saving = (off["stored"] - got["stored"]) / (off["stored"] - ideal["stored"])
            rows.append((f"{chunk} KiB", rate, mib(got["stored"]), f"{saving:.1%}",
                         int(got["records"]), int(got["entries"]), round(got["index"] / 1024),
                         f"{got['cpu_s'] / got['content'] * MIB * 1e3:.2f}"))
    table(rows)


def stored(daemon):
    """What the pool's segments take on disk, with nothing dirty."""
    return daemon.json("status")["pool_allocated_bytes"]


def import_all(images, *options):
    with Daemon() as daemon:
        for i, image in enumerate(images):
            daemon.squall("image", "import", f"image-{i}", image, *options)
        return stored(daemon), daemon.json("status")


def write_all(images, *options):
    with Daemon() as daemon:
        daemon.squall("image", "import", "base", images[0])
        for i, image in enumerate(images[1:]):
            name = f"v-{i}"
            daemon.squall("volume", "create", name, "--from", "base", *options)
            handle = daemon.nbd(name)
            with open(image, "rb") as file:
                for at, length in data_pieces(file):
                    handle.pwrite(os.pread(file.fileno(), length, at), at)
            handle.flush()
            handle.shutdown()
            daemon.squall("snapshot", "create", f"{name}@installed")  # a commit of everything
        return stored(daemon), daemon.json("status")


def daemon_cases(cases):
    rows = [("case", "without MiB", "with MiB", "ideal MiB", "blocks shared", "index KiB")]
    for name, images in cases.items():
        store = write_all if name == "volumes" else import_all
        without, _ = store(images, "--no-dedup")
        with_, status = store(images)
        ideal = pack(images, "--ideal")["stored"]
        rows.append((name, mib(without), mib(with_), mib(ideal), status["dedup_blocks_shared"],
                     round(status["dedup_index_bytes"] / 1024)))
    table(rows)


def main():
    wanted = sys.argv[1:] or ["table", "daemon"]
    work = pathlib.Path(tempfile.mkdtemp(prefix="sq-", dir=os.environ.get("SQUALL_TEST_DIR", "/tmp")))
    try:
        base = copy_of(pathlib.Path(template()) / "debian.raw", work / "base.raw")
        added = copy_of(base, work / "added.raw")
        write_into(added, debugfs_commands(unpack(work, ADDED), "/opt/added"))
        cases = {"packages": [base, added]}
        release = second_release(work)
        if release is None:
            print(f"release: {RELEASE} cannot be had from this machine's mirror; left out")
        else:
            cases["release"] = [base, release]
        cases["volumes"] = [base, *install_volumes(work, base)]
        for step in wanted:
            if step == "table":
                for name, images in cases.items():
                    rates = (1, 8, 64) if name == "volumes" else (1, 8, 32, 64, 128)
                    case_table(name, images, rates)
            elif step == "daemon":
                daemon_cases(cases)
            else:
                sys.exit(f"{step}: neither table nor daemon")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
