"""Postgres: the client, the run history, and its migrations."""
