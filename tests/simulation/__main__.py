"""Simulate many seeds: `python -m tests.simulation 0 10000` (the first seed, and the one after the last)."""

from __future__ import annotations

import sys

from tests.simulation.test_protocol import live, without_logs

if __name__ == "__main__":
    first, end = map(int, sys.argv[1:])
    without_logs()
    for seed in range(first, end):
        live(seed)
    sys.stdout.write(f"{end - first} seeds kept all promises\n")
