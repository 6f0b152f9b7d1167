"""The run table in memory."""
