"""Artifacts to a folder."""
