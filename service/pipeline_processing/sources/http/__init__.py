"""Reads rows from HTTP APIs."""
