"""Rows from an HTTP API."""
