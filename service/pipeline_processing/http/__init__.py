"""Adapter: HTTP APIs, as a source of rows and for steps that ask them."""
