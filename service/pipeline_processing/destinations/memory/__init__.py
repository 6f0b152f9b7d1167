"""A destination in memory, for tests."""
