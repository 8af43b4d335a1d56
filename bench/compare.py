#!/usr/bin/python3
"""The request path, side by side with other NBD servers: squalld (a clone), qemu-nbd (a qcow2 overlay
of a raw file), nbdkit (its file plugin on a raw file: no clone, the floor).

    bench/compare.py [--seconds N] [--rounds N] [--job NAME]...    # about three minutes

fio's nbd engine drives each over a unix socket; the servers take turns within every round, each with
a fresh clone per round. Prints Markdown: medians over the rounds, squalld's ratio to each of the
others, and what a request costs the server in processor time, which other load on the machine
disturbs less. Where to find programs and files: see clone_bench.py.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "scale"))

from workload import MIB, import_image, median  # noqa: E402
from squall_daemon import Daemon  # noqa: E402

SIZE = 128 * MIB

# name: (what it is, fio's options, writes)
JOBS = {
    "read-qd1": ("4 KiB random read, depth 1, cached", "--rw=randread --bs=4k --iodepth=1", False),
    "read-qd32": ("4 KiB random read, depth 32, cached", "--rw=randread --bs=4k --iodepth=32", False),
    "seq": ("1 MiB sequential read, depth 4, cached", "--rw=read --bs=1M --iodepth=4", False),
    "write-qd32": ("4 KiB random write, depth 32, fresh clone",
                   "--rw=randwrite --bs=4k --iodepth=32", True),
    "fsync": ("4 KiB random write + fsync, depth 1",
              "--rw=randwrite --bs=4k --iodepth=1 --fsync=1", True),
}


class Squall:
    name = "squalld"

    def __init__(self, daemon):
        self.daemon = daemon
        self.made = 0

    def start(self):
        self.made += 1
        name = f"clone-{self.made}"
        self.daemon.squall("volume", "create", name, "--from", "debian")
        return self.daemon.uri(name)

    def pid(self):
        return self.daemon.process.pid

    def stop(self):
        pass


class Child:
    """A server of its own process per export."""

    def __init__(self, directory, base):
        self.directory = directory
        self.base = base
        self.process = None

    def run(self, command, socket):
        self.process = subprocess.Popen(command)
        while not os.path.exists(socket):
            assert self.process.poll() is None, f"{self.name} ended"
            time.sleep(0.01)
        return f"nbd+unix:///?socket={socket}"

    def path(self, suffix):
        path = os.path.join(self.directory, f"{self.name}.{suffix}")
        if os.path.exists(path):
            os.unlink(path)
        return path

    def pid(self):
        return self.process.pid

    def stop(self):
        self.process.terminate()
        self.process.wait()


class QemuNbd(Child):
    name = "qemu-nbd"

    def start(self):
        overlay, socket = self.path("qcow2"), self.path("sock")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self.base,
                        overlay], check=True)
        return self.run(["qemu-nbd", "-t", "-e", "8", "-f", "qcow2", "--cache=writeback",
                         "-k", socket, overlay], socket)


class Nbdkit(Child):
    name = "nbdkit"

    def start(self):
        copy, socket = shutil.copy(self.base, self.path("raw")), self.path("sock")
        return self.run(["nbdkit", "-f", "-U", socket, "file", copy], socket)


def fio(uri, options, seconds):
    output = subprocess.run(
        ["fio", "--name=job", "--ioengine=nbd", f"--uri={uri}", f"--size={SIZE}",
         *options.split(), *([f"--runtime={seconds}", "--time_based"] if seconds else []),
         "--output-format=json"],
        check=True, stdout=subprocess.PIPE, text=True).stdout
    job = json.loads(output[output.index("{"):])["jobs"][0]
    side = max(job["read"], job["write"], key=lambda side: side["total_ios"])
    return side["iops"], side["total_ios"]


def cpu_seconds(server):
    """Of all threads, those that have ended included, in steps of 10 ms."""
    with open(f"/proc/{server.pid()}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(server, options, writes, seconds):
    """(requests per second, the server's processor time per request in microseconds)."""
    uri = server.start()
    try:
        if not writes:
            fio(uri, "--rw=read --bs=1M --iodepth=4", 0)  # into the cache, whatever kind it is
        cpu = cpu_seconds(server)
        iops, requests = fio(uri, options, seconds)
        return iops, (cpu_seconds(server) - cpu) / requests * 1e6
    finally:
        server.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--job", action="append", choices=JOBS)
    options = parser.parse_args()
    with Daemon() as daemon:
        base = import_image(daemon, size=SIZE)
        servers = [Squall(daemon), QemuNbd(daemon.home, base), Nbdkit(daemon.home, base)]
        print("| job | " + " | ".join(f"{server.name}, requests/s (us of CPU each)"
                                      for server in servers)
              + " | squalld : qemu-nbd | squalld : nbdkit |")
        print("|---|---|---|---|---|---|")
        for job in options.job or JOBS:
            what, arguments, writes = JOBS[job]
            runs = {server: [] for server in servers}
            for _ in range(options.rounds):
                for server in servers:
                    runs[server].append(measure(server, arguments, writes, options.seconds))
            iops = [median([run[0] for run in runs[server]]) for server in servers]
            cpu = [median([run[1] for run in runs[server]]) for server in servers]
            cells = [f"{i:,.0f} ({c:.1f})" for i, c in zip(iops, cpu)]
            print(f"| {what} | " + " | ".join(cells)
                  + f" | {iops[0] / iops[1]:.2f} | {iops[0] / iops[2]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
