"""Columns, and the values that rows carry."""
