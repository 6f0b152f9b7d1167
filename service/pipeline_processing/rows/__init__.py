"""Columns, and how their values travel."""
