"""Real guests for end-to-end tests: the Debian template, QEMU on NBD exports, a root shell.

    with Guest(daemon, ["root", "data"]) as guest:    # volumes: /dev/vda, /dev/vdb
        guest.console.run("uname -r")
        guest.kill()                                   # SIGKILL: the guest loses its power

The template comes from packaging/make-template (SQUALL_TEMPLATE says where it is kept), which needs
root or sudo when it has not been made yet. QEMU emulates (TCG): that works everywhere. Its disks
wait for a daemon that is away.
"""

import json
import os
import pathlib
import re
import select
import socket
import subprocess
import time

from squall_daemon import ROOT

BOOT_TIMEOUT_S = 300
RECONNECT_DELAY_S = 300
CPU = "qemu64,+cx16,+lahf-lm,+popcnt,+ssse3,+sse4.1,+sse4.2"


def template():
    """The directory of debian.raw, vmlinuz and initrd."""
    command = [str(ROOT / "packaging/make-template")]
    if "SQUALL_TEMPLATE" in os.environ:
        command.append(os.environ["SQUALL_TEMPLATE"])
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return pathlib.Path(output.splitlines()[-1])


class Console:
    """A root shell on a guest's serial console."""

    def __init__(self, path, timeout_s=120):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout_s)
        self.socket.connect(path)
        self.heard = b""
        self.commands = 0
        self.socket.sendall(b"\n")
        self.wait(rb"login: $")
        self.socket.sendall(b"root\n")
        self.wait(rb"# $")
        # Without echo and line editing, what comes back is output and nothing else.
        self.socket.sendall(b"TERM=dumb exec sh\n")
        self.wait(rb"# $")
        self.socket.sendall(b"stty -echo; PS1=\n")

    def wait(self, pattern):
        while not (found := re.search(pattern, self.heard)):
            piece = self.socket.recv(4096)
            assert piece, "the console is closed"
            self.heard += piece
        self.heard = self.heard[found.end() :]
        return found

    def drain(self):
        """Takes what has come: a guest that nobody listens to stands still before long."""
        while select.select([self.socket], [], [], 0)[0]:
            piece = self.socket.recv(1 << 16)
            if not piece:
                return
            self.heard += piece

    def start(self, command):
        self.commands += 1
        self.socket.sendall(f"{command}; echo end-{self.commands}=$?=\n".encode())

    def finish(self):
        """The exit status of what was started, and its output."""
        found = self.wait(rb"(?s)(.*?)end-%d=(\d+)=" % self.commands)
        return int(found[2]), found[1].decode(errors="replace")

    def run(self, command):
        self.start(command)
        status, output = self.finish()
        assert status == 0, f"{command}: status {status}: {output}"
        return output

    def upload(self, path, text):
        """Writes a small text file. Line by line: a terminal's line has 4095 bytes at most."""
        self.run(f": >{path}")
        for line in text.splitlines():
            quoted = line.replace("'", "'\\''")
            self.run(f"echo '{quoted}' >>{path}")


class Guest:
    """A virtual machine; the first of `volumes` is the template's clone it boots from."""

    def __init__(self, daemon, volumes, memory_mib=384):
        self.files = template()
        self.console_path = os.path.join(daemon.home, "console.sock")
        self.log_path = os.path.join(daemon.home, "console.log")
        self.command = [
            "setpriv", "--pdeathsig", "KILL",  # a test that is killed leaves no guest behind
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-accel", "tcg,tb-size=128", "-cpu", CPU, "-m", str(memory_mib),
            "-kernel", str(self.files / "vmlinuz"), "-initrd", str(self.files / "initrd"),
            "-append", "root=/dev/vda rw console=ttyS0 quiet", "-serial", "chardev:console",
            "-chardev", f"socket,id=console,server=on,wait=off,path={self.console_path},"
            f"logfile={self.log_path},logappend=on",
        ]
        for number, volume in enumerate(volumes):
            disk = {"driver": "nbd", "node-name": f"disk{number}", "export": volume,
                    "server": {"type": "unix", "path": daemon.nbd_socket},
                    "reconnect-delay": RECONNECT_DELAY_S, "discard": "unmap"}
            device = {"driver": "virtio-blk-pci", "drive": f"disk{number}"}
            self.command += ["-blockdev", json.dumps(disk), "-device", json.dumps(device)]
        self.process = None

    def __enter__(self):
        """Boots and logs in."""
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL)
        try:
            self.console = self._connect(time.monotonic() + 60)
        except BaseException:
            self.__exit__(AssertionError, None, None)
            raise
        return self

    def _connect(self, deadline):
        while True:
            try:
                return Console(self.console_path, BOOT_TIMEOUT_S)
            except (FileNotFoundError, ConnectionRefusedError):  # QEMU is not that far
                assert self.process.poll() is None, "QEMU did not start"
                assert time.monotonic() < deadline, "QEMU has no console"
                time.sleep(0.05)

    def __exit__(self, kind, value, traceback):
        self.kill()
        if kind is not None:
            print(f"--- the guest's console\n{self.log()[-3000:]}\n---", flush=True)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        if os.path.exists(self.console_path):
            os.unlink(self.console_path)

    def power_off(self, timeout_s=120):
        """In order; what the guest has written is on its disks afterwards."""
        self.console.socket.sendall(b"systemctl poweroff\n")
        assert self.process.wait(timeout_s) == 0, "QEMU failed"
        self.process = None

    def log(self):
        try:
            with open(self.log_path, errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def complaints(self):
        """What the guest's kernel says of its disks and file systems."""
        words = "I/O error|EXT4-fs error|XFS .*(corrupt|error)|Remounting|hung task|blocked for"
        return self.console.run(f"dmesg | grep -E '{words}' || true").strip()
