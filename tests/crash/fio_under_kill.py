"""fio as a witness of kills: it writes, saves what was answered, pulls the trigger that kills the
daemon, and later verifies everything that it had an answer for."""

import os
import subprocess

MIB = 1 << 20
# All that is written fits into one pass: each round has another pattern, so that a block left from
# an earlier round is found, too.
SIZE_MIB = 24
RATE_MIB = 24  # per second


class Fio:
    def __init__(self, daemon, volume, round_number):
        self.daemon = daemon
        self.trigger = os.path.join(daemon.home, "fio-trigger")
        self.job = [
            "fio", f"--name={volume}", "--ioengine=nbd", f"--uri={daemon.uri(volume)}",
            f"--size={SIZE_MIB}m", "--rw=randwrite", "--bsrange=512-16k", "--iodepth=16",
            "--verify=crc32c", "--verify_fatal=1", f"--randseed={round_number + 1}",
        ]

    def start(self):
        kill = f"kill -KILL {self.daemon.process.pid}"
        self.process = subprocess.Popen(
            self.job + ["--do_verify=0", "--verify_state_save=1", f"--rate={RATE_MIB}m",
                        f"--trigger-file={self.trigger}", f"--trigger={kill}"],
            cwd=self.daemon.home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)

    def pull_trigger(self):
        """fio notices within some milliseconds, saves its state and kills the daemon."""
        if self.process.poll() is None:
            open(self.trigger, "w").close()

    def finish(self):
        self.output, _ = self.process.communicate(timeout=60)
        if os.path.exists(self.trigger):
            os.unlink(self.trigger)
            raise AssertionError(f"fio did not pull the trigger:\n{self.output}")

    def verify(self):
        """How many requests were verified."""
        done = subprocess.run(
            self.job + ["--verify_only", "--verify_state_load=1", "--verify_state_save=0",
                        "--output-format=terse"],
            cwd=self.daemon.home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=120)
        assert done.returncode == 0, f"{' '.join(self.job)}\n{self.output}\n{done.stdout}"
        fields = [line for line in done.stdout.splitlines() if line.startswith("3;")][-1].split(";")
        return int(fields[5]) * 1024  # KiB read
