"""fio as a witness of kills: it writes until the daemon is killed, logs each request that was
answered, and later verifies those.

fio's own saved state will not do here: it counts requests that failed in the kill as done, and
takes those in flight for the last ones sent.
"""

import os
import re
import subprocess

MIB = 1 << 20
# All that is written fits into one pass: each round has another pattern, so that a block left from
# an earlier round is found, too.
SIZE_MIB = 24
RATE_MIB = 16  # per second


class Fio:
    def __init__(self, daemon, volume, round_number):
        self.daemon = daemon
        self.volume = volume
        self.log = os.path.join(daemon.home, "fio")
        self.job = [
            "fio", "--thread", f"--name={volume}", "--ioengine=nbd", f"--uri={daemon.uri(volume)}",
            f"--size={SIZE_MIB}m", "--rw=randwrite", "--bsrange=512-16k", "--iodepth=16",
            "--verify=crc32c", "--verify_state_save=0", f"--randseed={round_number + 1}",
        ]

    def run(self, *options):
        return subprocess.Popen(
            [*self.job, *options], cwd=self.daemon.home, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def start(self):
        """Returns when it writes."""
        self.process = self.run("--do_verify=0", f"--rate={RATE_MIB}m", "--log_offset=1",
                                f"--write_lat_log={self.log}")
        while self.daemon.json("volume", "show", self.volume)["bytes_written"] == 0:
            assert self.process.poll() is None, self.process.stdout.read()

    def finish(self):
        """It ends with the connection; now and then it hangs instead, and has seen nothing."""
        self.answered = {}  # offset -> length
        try:
            self.output, _ = self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.output, _ = self.process.communicate()
            return
        path = f"{self.log}_lat.1.log"
        if os.path.exists(path):
            with open(path) as file:
                for line in file:
                    _time, _latency, _direction, length, offset = line.split(",")[:5]
                    self.answered[int(offset)] = int(length)
            os.unlink(path)

    def verify(self):
        """Raises when something is wrong that fio had an answer for; how many requests it had."""
        process = self.run("--verify_only", "--continue_on_error=verify", "--output-format=terse")
        output, _ = process.communicate(timeout=120)
        results = [line for line in output.splitlines() if line.startswith("3;")]
        assert results, output
        read_bytes = int(results[-1].split(";")[5]) * 1024
        assert read_bytes >= SIZE_MIB * MIB * 9 // 10, output  # all of it, but for some rounding
        wrong = {int(at) for at in re.findall(r"requested block: offset=(\d+)", output)}
        lost = {at: self.answered[at] for at in wrong if at in self.answered}
        assert not lost, f"offsets and lengths {lost}:\n{self.output}\n{output}"
        return len(self.answered)
