"""What a package outside of this service may add to it."""
