"""HTTP endpoints of this process."""
