"""The command line: parses arguments, builds what a command needs, calls it, and prints the result."""
