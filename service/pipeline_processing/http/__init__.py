"""HTTP APIs, used as sources of rows and by steps."""
