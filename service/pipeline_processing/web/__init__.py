"""What this process answers over HTTP."""
