#!/usr/bin/python3
"""fsx.py (which see) on a few seeds: SQUALL_SEEDS of them (3), SQUALL_OPS operations each (1500).
"""
import os

from support import script


def main():
    script("fsx.py", timeout_s=None, SQUALL_SEEDS=os.environ.get("SQUALL_SEEDS", "3"),
           SQUALL_OPS=os.environ.get("SQUALL_OPS", "1500"))


if __name__ == "__main__":
    main()
