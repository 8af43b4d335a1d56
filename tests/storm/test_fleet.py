"""Two real VMs boot from one image through `squall fleet up`; the daemon is killed under them and
comes back, and they go on as if nothing had happened; `fleet down` leaves nothing behind.

The template comes from packaging/make-template (SQUALL_TEMPLATE says where it is kept), which needs
root or sudo when it has not been made yet. SQUALL_STORM_VMS: how many VMs (2).
"""

import os
import pathlib
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from guest import BOOT_TIMEOUT_S, Console, template  # noqa: E402
from squall_daemon import Daemon, binary  # noqa: E402

VMS = int(os.environ.get("SQUALL_STORM_VMS", "2"))
READY = "squall-ready uptime="


def boot(daemon, files):
    daemon.squall("image", "import", "debian", files / "debian.raw")
    arguments = ["fleet", "up", "lab", "--image", "debian", "--count", VMS, "--ready", READY]
    arguments += ["--kernel", files / "vmlinuz", "--initrd", files / "initrd", "--memory", "384"]
    arguments += ["--append", "root=/dev/vda rw console=ttyS0 quiet"]
    arguments += ["--timeout", BOOT_TIMEOUT_S]
    fleet = daemon.json(*arguments)
    assert fleet["ready"] == VMS, fleet
    for vm in fleet["vms"]:
        assert vm["boot_ms"] > 0 and vm["bytes_read"] > 1 << 20, vm
        assert vm["bytes_written"] > 0, vm
    print(f"{VMS} VMs ready after {fleet['elapsed_ms'] / 1000:.1f} s")
    return fleet


def check_daemon_dies_under_guests(daemon, fleet):
    consoles = {vm["name"]: Console(vm["console_socket"]) for vm in fleet["vms"]}
    for name, console in consoles.items():
        console.run(f"echo {name} > /etc/mine; dd if=/dev/urandom of=/a bs=64k count=64; sync")
        console.run("sha256sum /a > /a.sum; sync")
    # Writes that are under way while the daemon is away wait for it.
    daemon.kill()
    for console in consoles.values():
        console.start("cp /a /b && sync && echo 3 > /proc/sys/vm/drop_caches && sha256sum -c /a.sum")
    time.sleep(2)
    daemon.start()
    for name, console in consoles.items():
        status, output = console.finish()
        assert status == 0 and "OK" in output, (name, status, output)
        assert console.run("cmp /a /b; cat /etc/mine").strip() == name
        assert console.run("dmesg -l err,crit,alert,emerg | grep -c -i -E 'vda|ext4' || true").strip() == "0"


def check_up_again_and_down(daemon):
    again = daemon.json("fleet", "up", "lab")
    assert again["ready"] == VMS and again["elapsed_ms"] < 20_000, again
    assert [f["name"] for f in daemon.json("fleet", "list")] == ["lab"]
    refused = daemon.squall("volume", "remove", "lab-1", check=False)
    assert refused.returncode == 1, "the volume of a running VM was removed"
    daemon.squall("fleet", "down", "lab")
    expect_nothing_left(daemon)
    assert daemon.squall("fleet", "down", "lab", check=False).returncode == 1


def check_interrupted_up(daemon):
    """Ctrl-C takes back what was started."""
    process = subprocess.Popen(
        [binary("squall"), "fleet", "up", "lab", "--image", "debian", "--count", "2"],
        env=daemon.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "starting" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "interrupted" in errors, (process.returncode, errors)
    expect_nothing_left(daemon)


def expect_nothing_left(daemon):
    assert daemon.json("fleet", "list") == []
    assert daemon.json("volume", "list") == []
    for command_line in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = command_line.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        assert not (b"qemu-system" in text and daemon.home.encode() in text), text


def main():
    files = template()
    with Daemon() as daemon:
        try:
            fleet = boot(daemon, files)
            check_daemon_dies_under_guests(daemon, fleet)
            check_up_again_and_down(daemon)
            check_interrupted_up(daemon)
        finally:
            if not daemon.is_running():
                daemon.start()
            if daemon.json("fleet", "list"):
                for log in pathlib.Path(daemon.home, "fleets").glob("*/*/console.log"):
                    sys.stderr.write(f"--- {log}\n{log.read_text(errors='replace')[-3000:]}\n")
                daemon.squall("fleet", "down", "lab", check=False)


main()
