"""The live status page of the run history, and its JSON API."""
