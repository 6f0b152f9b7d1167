"""A job request's way in: read, submit, follow, replay, redrive, dead letters."""
