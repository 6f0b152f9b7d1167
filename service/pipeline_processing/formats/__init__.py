"""Rows → bytes, one module per format."""
