"""Exports one agency's data on request: Postgres → steps → S3, each run with exactly-once effect."""
