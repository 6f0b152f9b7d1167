"""Upstream events and schedules → job requests."""
