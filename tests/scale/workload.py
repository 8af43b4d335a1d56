"""What the scale tests and bench/clone_bench.py share: an image, lineages, cold reads, measures."""

import http.client
import json
import os
import random
import resource
import socket
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

KIB = 1024
MIB = 1024 * 1024
BLOCK = 4 * KIB
SPAN = 2 * MIB  # what a leaf of the index covers
# Each round of a lineage rewrites these blocks of the first 2 MiB, every eighth chunk's third.
BLOCKS = [chunk * 16 + 3 for chunk in range(0, 32, 4)]


class Rest:
    """The daemon's REST API on one kept-alive connection."""

    class _Connection(http.client.HTTPConnection):
        def __init__(self, path):
            super().__init__("squalld")
            self._path = path

        def connect(self):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.connect(self._path)

    def __init__(self, daemon):
        self._connection = self._Connection(daemon.control_socket)

    def __call__(self, method, path, body=None):
        """The decoded answer; raises on any status that is not 2xx."""
        self._connection.request(
            method, "/v1" + path, json.dumps(body) if body is not None else None
        )
        response = self._connection.getresponse()
        text = response.read()
        if response.status // 100 != 2:
            raise RuntimeError(f"{method} {path}: {response.status} {text.decode()}")
        return json.loads(text) if text else None

    def create(self, name, origin, count=1):
        body = {"name": name, "from": origin, "count": count}
        return self("POST", "/volumes", body)

    def snapshot(self, volume, name):
        self("POST", f"/volumes/{volume}/snapshots", {"name": name})


def seconds(function):
    """How long `function` takes, and what it returns."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def median(values):
    return statistics.median(values)


def cpu_seconds(daemon):
    """Processor time of all the daemon's threads so far. Unlike elapsed time it hardly depends on
    what else the machine does, so that tests can compare it."""
    total_ns = 0
    tasks = f"/proc/{daemon.process.pid}/task"
    for task in os.listdir(tasks):
        with open(f"{tasks}/{task}/schedstat") as file:
            total_ns += int(file.read().split()[0])
    return total_ns / 1e9


def import_image(daemon, name="debian", size=16 * MIB):
    """An image whose content half compresses, as a system disk's does. Returns its file's path."""
    path = os.path.join(daemon.home, name + ".raw")
    noise = random.Random(1)
    with open(path, "wb") as file:
        for _ in range(size // BLOCK):
            file.write(noise.randbytes(BLOCK // 2) + bytes([noise.randrange(1, 256)]) * (BLOCK // 2))
    daemon.squall("image", "import", name, path)
    return path


def pool_bytes(daemon):
    """Bytes of all files of the pool: (as they are long, as they take room on disk)."""
    length = room = 0
    for directory, _, names in os.walk(os.path.join(daemon.home, "pool")):
        for name in names:
            status = os.stat(os.path.join(directory, name))
            length += status.st_size
            room += status.st_blocks * 512
    return length, room


def write_blocks(handle, blocks, generation):
    for block in blocks:
        handle.pwrite(b"%08x%08x" % (generation, block) * (BLOCK // 16), block * BLOCK)


def snapshot_lineage(daemon, rest, volume, depth, blocks_of=lambda round_: BLOCKS):
    """`depth` times: rewrite blocks of `volume`, then snapshot it: s1, s2, ..."""
    handle = daemon.nbd(volume)
    for round_ in range(1, depth + 1):
        write_blocks(handle, blocks_of(round_), round_)
        rest.snapshot(volume, f"s{round_}")
    handle.shutdown()


def clone_lineage(daemon, rest, prefix, origin, depth):
    """PREFIX-1 is a clone of `origin`, each further one of its predecessor's snapshot s; all
    written to. Returns the last one's name."""
    for generation in range(1, depth + 1):
        name = f"{prefix}-{generation}"
        rest.create(name, origin)
        handle = daemon.nbd(name)
        write_blocks(handle, BLOCKS, generation)
        handle.shutdown()
        rest.snapshot(name, "s")
        origin = f"{name}@s"
    return name


def cold_read(daemon, export, length=SPAN):
    """Restarts the daemon, so that its cache is empty (the pool is read by direct I/O: there is no
    other), and reads the first `length` bytes. Returns seconds elapsed, seconds of the daemon's
    processor time, records read from the pool."""
    daemon.restart()
    handle = daemon.nbd(export)
    records = daemon.json("status")["cache_misses"]
    cpu = cpu_seconds(daemon)
    elapsed, _ = seconds(lambda: handle.pread(length, 0))
    cpu = cpu_seconds(daemon) - cpu
    records = daemon.json("status")["cache_misses"] - records
    handle.shutdown()
    return elapsed, cpu, records


def cold_reads(daemon, exports, repeats):
    """{export: (all seconds elapsed, all seconds of processor time, records read)}; the exports
    take turns."""
    reads = {export: [] for export in exports}
    for _ in range(repeats):
        for export in exports:
            reads[export].append(cold_read(daemon, export))
    costs = {}
    for export, runs in reads.items():
        elapsed, cpu, records = zip(*runs)
        assert len(set(records)) == 1, f"{export}: not the same records each time: {records}"
        costs[export] = (elapsed, cpu, records[0])
    return costs


def allow_many_files(count):
    """For that many connections from this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))
