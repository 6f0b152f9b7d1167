"""Terminal output and exit codes, shared by the commands and the demo."""
