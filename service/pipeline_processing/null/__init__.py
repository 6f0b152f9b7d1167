"""Nowhere: what dry runs and benchmarks write to."""
