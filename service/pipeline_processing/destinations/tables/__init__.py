"""Rows into tables of Postgres."""
