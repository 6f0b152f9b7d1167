"""A destination that stores nothing."""
