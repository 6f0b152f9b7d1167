"""Logs, traces, masking and health."""
