"""Benchmarks: figures to report, never timed tests. `make bench` runs them."""
