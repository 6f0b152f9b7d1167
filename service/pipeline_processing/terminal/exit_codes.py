"""
Exit codes of commands, in addition to those of errors (see the tree in `errors.py`).

They follow BSD's sysexits.h; after a signal, the code is 128 + its number.
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
"""The reader of the output, such as `| head`, has closed the pipe."""
