"""Benchmarks, which print figures and never fail for slowness. `make bench` runs them."""
