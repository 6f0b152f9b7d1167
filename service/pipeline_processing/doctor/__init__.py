"""The checks of `doctor`: whether the configured servers behave as the service relies on. One file per server."""
