#!/usr/bin/python3
"""fio's verification across restarts: it writes, saves its state and stops in the middle; the
daemon is stopped or killed, and started; another fio loads the state and verifies what was written.
In every cache mode, both scopes and stateless; also after a snapshot, on the snapshot and on a
clone of it. At last blocks are spoilt, which fio must find: so it does look.

SQUALL_FIO_MIB: MiB per volume (16).
"""
import os
import subprocess
import tempfile
import time

from support import CACHE_MODES, MIB, Daemon, eventually, run, run_checks

FIO_MIB = int(os.environ.get("SQUALL_FIO_MIB", "16"))
VOLUMES = {mode: ("--cache", mode) for mode in CACHE_MODES} | {
    "pool": ("--durability", "pool"), "stateless": ("--stateless",)}


def job(daemon, volume, export=None):
    """The same job must be given when writing and when verifying, whichever the export."""
    uri = daemon.uri(export or volume)
    return ["fio", f"--name=state-{volume}", "--ioengine=nbd", f"--uri={uri}", f"--size={FIO_MIB}m",
            "--rw=randwrite", "--bsrange=512-32k", "--iodepth=16", "--verify=sha256", "--verify_fatal=1", f"--randseed={len(volume)}"]


def write_half(daemon, volume, directory):
    """Ends fio by its trigger somewhere in the middle, its state saved."""
    trigger = os.path.join(directory, "trigger")
    fio = subprocess.Popen(
        [*job(daemon, volume), "--do_verify=0", "--verify_state_save=1", f"--rate={FIO_MIB}m",
         f"--trigger-file={trigger}", "--trigger=true"], cwd=directory,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    eventually("fio writes", lambda: daemon.json(
        "volume", "show", volume)["bytes_written"] > FIO_MIB * MIB // 4)
    open(trigger, "w").close()
    output, _ = fio.communicate(timeout=60)
    assert not os.path.exists(trigger), output


def verify(daemon, volume, directory, export=None, status=0):
    output = run(*job(daemon, volume, export), "--verify_only", "--verify_state_load=1",
                 "--verify_state_save=0", "--output-format=terse", cwd=directory, status=status)
    if status == 0:
        fields = [line for line in output.splitlines() if line.startswith("3;")][-1].split(";")
        kib = int(fields[5])
        assert kib >= FIO_MIB * 1024 // 5, f"{volume}: fio verified {kib} KiB only"


def check_state(daemon, directory):
    for volume, options in VOLUMES.items():
        daemon.squall("volume", "create", volume, "--size", f"{FIO_MIB}M", *options)
        write_half(daemon, volume, directory)
    for crash in (True, False):
        daemon.restart(crash=crash)
        for volume in VOLUMES:
            verify(daemon, volume, directory)


def check_lineage(daemon, directory):
    for volume in ("writeback", "pool"):
        daemon.squall("snapshot", "create", f"{volume}@s")
        run("qemu-io", "-f", "raw", "-c", f"write -z 0 {FIO_MIB}M", daemon.uri(volume))
        daemon.squall("volume", "create", f"{volume}-clone", "--from", f"{volume}@s")
        daemon.restart(crash=True)
        verify(daemon, volume, directory, f"{volume}-clone")
        daemon.squall("volume", "rollback", f"{volume}@s")
        verify(daemon, volume, directory)


def check_spoilt(daemon, directory):
    """The middle KiB of every 16 KiB."""
    handle = daemon.nbd("none")
    for offset in range(7 << 10, FIO_MIB * MIB, 16 << 10):
        handle.pwrite(b"spoilt!!" * 128, offset)
    handle.shutdown()
    verify(daemon, "none", directory, status=1)


def main():
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="squall-fio-") as directory, Daemon() as daemon:
        run_checks(check_state, check_lineage, check_spoilt, arguments=(daemon, directory))
    print(f"{time.monotonic() - begin:.1f} s")


if __name__ == "__main__":
    main()
