"""The upkeep in fsx.py: checks of the pool, and garbage collections."""

import subprocess
import time

from support import binary


class Upkeep:
    """Operations of the Exerciser, which see."""

    # Checks: whatever has been done to it, the pool is in order.

    def check_pool(self):
        self.daemon.squall("check", "--rate", "0")

    def do_check(self):
        self.note("check")
        self.check_pool()

    def do_check_meanwhile(self):
        disk = self.pick_disk()
        requests = self.pick_requests(disk, ("write", "write", "zero", "read"))
        self.note("check with requests in flight")
        self.send(disk, requests)
        self.check_pool()
        self.finish(disk, requests)

    def do_check_offline(self):
        """After an orderly stop or a kill."""
        crash = self.rng.random() < 0.5
        self.note(f"check after {'kill' if crash else 'stop'}")
        self.disconnect_all()
        self.daemon.kill() if crash else self.daemon.stop()
        self.check_pool()
        self.daemon.start()
        self.check_all()

    # Garbage collection: what is reachable stays as it is.

    def do_gc(self):
        self.note("gc")
        self.daemon.squall("gc")

    def do_gc_meanwhile(self):
        """With requests in flight, a commit and a clone."""
        disk = self.pick_disk()
        requests = self.pick_requests(disk, ("write", "write", "zero", "read"))
        self.note(f"gc with requests in flight on {disk.name}")
        verb = self.start_gc()
        self.send(disk, requests)
        self.do_clone()
        self.do_commit()
        self.finish(disk, requests)
        assert verb.wait(60) == 0, "squall gc failed"

    def do_gc_killed(self):
        """A collection, and a commit, are cut off somewhere."""
        after_s = self.rng.choice((0, 0.01, 0.02, 0.05))
        self.note(f"kill {after_s} s into a gc")
        verb = self.start_gc()
        self.do_commit()
        time.sleep(after_s)
        self.daemon.kill()
        verb.wait(60)
        self.after_kill([])

    def start_gc(self):
        return subprocess.Popen(
            [binary("squall"), "gc"], env=self.daemon.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
