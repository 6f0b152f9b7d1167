"""Rows from a query in Postgres."""
