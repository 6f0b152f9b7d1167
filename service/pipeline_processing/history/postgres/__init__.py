"""The run table in Postgres."""
