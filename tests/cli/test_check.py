#!/usr/bin/env python3
"""squall check against a real daemon: online under writers and snapshots without false alarms,
offline, after a byte has rotted, --repair, exit statuses, --json, Ctrl-C, damaged catalog entries.

SQUALL_ROUNDS: how many checks run beside the writers (default 5)."""

import errno
import glob
import os
import random
import signal
import subprocess
import sys
import threading
import time

import nbd

from squall_daemon import Daemon, binary

ROUNDS = int(os.environ.get("SQUALL_ROUNDS", "5"))


def rot(path, offset, mask=0x10):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def check(daemon, *args, status):
    result = daemon.squall("check", *args, check=False)
    assert result.returncode == status, (result.returncode, result.stdout, result.stderr)
    return result


def under_load(daemon):
    stop = threading.Event()
    errors = []

    def writer(name):
        try:
            rng = random.Random(name)
            handle = daemon.nbd(name)
            while not stop.is_set():
                handle.pwrite(rng.randbytes(64 * 1024), rng.randrange(0, 512) * 65536)
                if rng.random() < 0.05:
                    handle.flush()
            handle.shutdown()
        except Exception as error:  # reported by the main thread
            errors.append(error)

    def snapshots():
        i = 0
        while not stop.is_set():
            daemon.squall("snapshot", "create", f"w1@s{i}")
            if i >= 2:
                daemon.squall("snapshot", "remove", f"w1@s{i - 2}")
            i += 1
            time.sleep(0.05)

    threads = [threading.Thread(target=writer, args=(name,)) for name in ("w1", "w2")]
    threads.append(threading.Thread(target=snapshots))
    for thread in threads:
        thread.start()
    try:
        for _ in range(ROUNDS):
            check(daemon, "--rate", "0", status=0)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors, errors


def segments(daemon):
    return sorted(glob.glob(daemon.home + "/pool/segments/*.seg"))


def main():
    with Daemon() as daemon:
        # The first record of the pool's first segment is this volume's first chunk.
        daemon.squall("volume", "create", "kept", "--size", "1M")
        handle = daemon.nbd("kept")
        handle.pwrite(os.urandom(65536), 0)
        handle.shutdown()
        daemon.squall("snapshot", "create", "kept@s")
        for name in ("w1", "w2"):
            daemon.squall("volume", "create", name, "--size", "32M")
        under_load(daemon)
        report = daemon.json("check")
        assert report["faults"] == [] and report["roots"] >= 2 and report["records"] > 0, report

        # A check belongs to its client: Ctrl-C ends it, and the next one may begin.
        slow = subprocess.Popen(
            [binary("squall"), "check", "--rate", "1M"],
            env=daemon.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(1)
        busy = check(daemon, status=1)
        assert "another check is running" in busy.stderr, busy.stderr
        slow.send_signal(signal.SIGINT)
        _, message = slow.communicate(timeout=20)
        assert slow.returncode == 1 and "interrupted" in message, (slow.returncode, message)
        deadline = time.monotonic() + 20
        while daemon.squall("check", "--rate", "0", check=False).returncode != 0:
            assert time.monotonic() < deadline, "the cancelled check does not end"

        refused = check(daemon, "--repair", status=1)
        assert "stop it" in refused.stderr, refused.stderr
        daemon.squall("snapshot", "create", "w1@last")
        daemon.squall("snapshot", "create", "w2@last")
        daemon.stop()

        # Offline; a footer rots and is made anew.
        check(daemon, status=0)
        segment = segments(daemon)[0]
        rot(segment, os.path.getsize(segment) - 600)
        found = check(daemon, status=1)
        assert "footer of segment" in found.stdout and "1 fault found" in found.stderr, found
        assert daemon.squall("--json", "check", check=False).returncode == 1
        repaired = check(daemon, "--repair", status=0)
        assert "repaired: segment" in repaired.stdout, repaired.stdout
        check(daemon, status=0)

        # A chunk rots: named by both kinds of check, not repairable; reads give EIO.
        rot(segment, 4096 + 100)
        found = check(daemon, status=1)
        assert "volume kept bytes 0 to 65535" in found.stdout and "offset 4096," in found.stdout, found.stdout
        unrepaired = check(daemon, "--repair", status=1)
        assert "cannot be repaired" in unrepaired.stderr, unrepaired.stderr
        daemon.start()
        online = check(daemon, "--rate", "0", status=1)
        fault = daemon.squall("--json", "check", check=False)
        assert '"kind":"record"' in fault.stdout, fault.stdout
        assert online.stdout.splitlines()[0] == found.stdout.splitlines()[0]
        handle = daemon.nbd("kept")
        try:
            handle.pread(4096, 0)
            raise AssertionError("a rotten block was read")
        except nbd.Error as error:
            assert error.errnum == errno.EIO, error
        handle.shutdown()
        assert daemon.json("status")["scrub"]["enabled"]
        daemon.stop()

        # A volume's catalog entry is lost: the daemon starts without it, and says so.
        import sqlite3

        database = sqlite3.connect(daemon.home + "/pool/catalog.db")
        database.execute("UPDATE entry SET value = ? WHERE partition = ?", (b"rotten", b"v/w2"))
        database.commit()
        database.close()
        daemon.start()
        status = daemon.json("status")
        assert any("volume w2" in line for line in status["damaged"]), status["damaged"]
        names = [volume["name"] for volume in daemon.json("volume", "list")]
        assert names == ["kept", "w1"], names
        taken = daemon.squall("volume", "create", "w2", "--size", "1M", check=False)
        assert taken.returncode == 1 and "damaged" in taken.stderr, taken.stderr
        daemon.stop()
        check(daemon, "--repair", status=1)
        daemon.start()
        assert daemon.json("status")["damaged"] == []
        daemon.squall("volume", "create", "w2", "--size", "1M")


if __name__ == "__main__":
    main()
    sys.exit(0)
