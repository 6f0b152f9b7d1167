"""The schemas that the project publishes."""
