"""What the crash tests share: daemons with settings, stamped blocks, and checks of them."""

import json
import os
import random
import re
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from squall_daemon import CommandFailed, Daemon  # noqa: E402, F401

BLOCK = 4096
SECTOR = 512


class ConfiguredDaemon(Daemon):
    """A daemon whose squall.toml says `settings`: {"journal": {"size": "64M"}}, over the defaults."""

    def __init__(self, settings, **arguments):
        super().__init__(**arguments)
        self.settings = settings

    def init(self):
        super().init()
        path = os.path.join(self.home, "squall.toml")
        with open(path) as file:
            text = file.read()
        for table, values in self.settings.items():
            for key, value in values.items():
                pattern = rf'(\[{table}\]\n(?:[^\[].*\n)*?{key} = )[^\n]*'
                literal = json.dumps(value)  # of a string or a list of strings: TOML, too
                text, count = re.subn(pattern, rf"\g<1>{literal}", text)
                assert count == 1, f"{table}.{key} is not in {path}"
        with open(path, "w") as file:
            file.write(text)


def seed_from_environment():
    """One seed per run, printed, so that a failure can be tried again with SQUALL_SEED."""
    seed = int(os.environ.get("SQUALL_SEED", random.randrange(1 << 32)))
    print(f"seed {seed} (SQUALL_SEED={seed} tries the same choices again)", flush=True)
    return seed


def is_root():
    return os.geteuid() == 0


def stamp(version, first_sector, count):
    """`count` sectors' content: each says which write it is from and where it belongs. Version 0 is
    zeros."""
    if version == 0:
        return bytes(count * SECTOR)
    pack = STAMP.pack
    return b"".join(pack(version, sector) * 32 for sector in range(first_sector, first_sector + count))


def read_all(handle, size):
    """The whole export, in pieces of 1 MiB."""
    piece = 1 << 20
    return b"".join(
        bytes(handle.pread(min(piece, size - at), at)) for at in range(0, size, piece)
    )


class StampedVolume:
    """What a volume must hold: per sector the version of the last acknowledged write, and the one
    sent but not acknowledged, if any. Requests in flight never overlap, as with a guest's."""

    def __init__(self, name, size):
        self.name = name
        self.size = size
        self.acknowledged = [0] * (size // SECTOR)
        self.in_flight = {}  # sector -> version
        self.next_version = 1
        self.writes_acknowledged = 0

    def is_free(self, first, count):
        return not any(s in self.in_flight for s in range(first, first + count))

    def sent(self, first, count, zero=False):
        version = 0 if zero else self.next_version
        self.next_version += 1
        for sector in range(first, first + count):
            self.in_flight[sector] = version
        return version

    def answered(self, first, count, good):
        """Without a good answer nothing is known: the write stays in flight until check()."""
        if not good:
            return
        version = self.in_flight[first]
        for sector in range(first, first + count):
            del self.in_flight[sector]
        self.acknowledged[first : first + count] = [version] * count
        self.writes_acknowledged += 1

    def check(self, content):
        """Raises when an acknowledged write is not there. What is there now is the truth from now
        on: a guest that has seen a write must never see it gone."""
        assert len(content) == self.size, f"{self.name}: {len(content)} bytes, not {self.size}"
        wrong = []
        zeros = bytes(SECTOR)
        for sector, expected in enumerate(self.acknowledged):
            data = content[sector * SECTOR : (sector + 1) * SECTOR]
            if data == (STAMP.pack(expected, sector) * 32 if expected else zeros):
                continue
            candidate = self.in_flight.get(sector)
            if candidate is not None and data == stamp(candidate, sector, 1):
                self.acknowledged[sector] = candidate
                continue
            wrong.append(f"sector {sector}: {describe(data)}, expected {expected} or {candidate}")
        self.in_flight.clear()
        assert not wrong, f"{self.name}: {len(wrong)} wrong sectors: " + "; ".join(wrong[:5])


def describe(data):
    if not any(data):
        return "zeros"
    version, sector = STAMP.unpack_from(data)
    whole = data == STAMP.pack(version, sector) * 32
    return f"version {version} of sector {sector}{'' if whole else ' (torn)'}"


STAMP = struct.Struct("<QQ")
