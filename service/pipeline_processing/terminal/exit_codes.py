"""
How a command ends. Errors carry their own code (`errors.py` draws the tree); these are the rest.

The numbers are those of BSD's sysexits.h where it has one, and 128 + the signal's number for a signal.
"""

import signal

SUCCESS = 0
FAILED = 1
USAGE = 64
UNAVAILABLE = 69
BUG = 70
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
READER_GONE = 128 + signal.SIGPIPE
"""Whoever read the output has closed it, as `| head` does."""
