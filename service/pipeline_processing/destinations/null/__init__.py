"""A destination that keeps nothing."""
