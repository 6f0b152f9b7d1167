"""Reads rows from Postgres by queries."""
