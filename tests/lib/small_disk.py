"""Disks of a few MiB that a test fills to the last byte (tmpfs: needs root)."""

import errno
import os
import subprocess
import tempfile


def run(*command):
    subprocess.run(command, check=True)


class SmallDisk:
    """A tmpfs of `size_mib` that can grow, and be filled by somebody else than Squall."""

    def __init__(self, size_mib):
        self.path = tempfile.mkdtemp(prefix="sq-disk-")
        self.size_mib = size_mib
        self.filler = os.path.join(self.path, "somebody-else")

    def __enter__(self):
        run("mount", "-t", "tmpfs", "-o", f"size={self.size_mib}M", "squall-test", self.path)
        return self

    def __exit__(self, *_):
        run("umount", "--lazy", self.path)
        os.rmdir(self.path)

    def grow(self, size_mib):
        run("mount", "-o", f"remount,size={size_mib}M", self.path)

    def free_bytes(self):
        info = os.statvfs(self.path)
        return info.f_bavail * info.f_frsize

    def fill(self, leave_bytes=0):
        """Takes all space but `leave_bytes`."""
        with open(self.filler, "ab") as file:
            step = 1 << 24
            while step >= 4096:
                if self.free_bytes() - leave_bytes < step:
                    step //= 2
                    continue
                try:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, step)
                except OSError as error:
                    assert error.errno == errno.ENOSPC, error
                    step //= 2

    def free(self):
        """Gives back what fill() took."""
        os.unlink(self.filler)
