"""Where artifacts go."""
