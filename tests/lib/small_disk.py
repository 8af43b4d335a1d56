"""Disks of a few MiB that a test fills, freezes or breaks (tmpfs, or ext4 in a file: needs root)."""

import errno
import os
import shutil
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


class FileDisk:
    """An ext4 of `size_mib` in a sparse file, which can be frozen: writes to it hang until thaw()."""

    def __init__(self, size_mib):
        # In memory, so that its own writing back does not slow down everybody else's disk.
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.directory = tempfile.mkdtemp(prefix="sq-disk-", dir=place)
        self.image = os.path.join(self.directory, "image")
        self.path = os.path.join(self.directory, "mnt")
        self.size_mib = size_mib
        self.frozen = False

    def __enter__(self):
        os.mkdir(self.path)
        with open(self.image, "wb") as file:
            file.truncate(self.size_mib << 20)
        run("mkfs.ext4", "-q", "-F", self.image)
        run("mount", "-o", "loop", self.image, self.path)
        return self

    def __exit__(self, *_):
        self.thaw()
        run("umount", "--lazy", self.path)
        shutil.rmtree(self.directory, ignore_errors=True)

    def freeze(self):
        run("fsfreeze", "--freeze", self.path)
        self.frozen = True

    def thaw(self):
        if self.frozen:
            run("fsfreeze", "--unfreeze", self.path)
        self.frozen = False
