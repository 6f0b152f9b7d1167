"""Building blocks of job configs and settings."""
