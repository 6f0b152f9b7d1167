"""A module whose import looks as if somebody had pressed Ctrl-C."""

raise KeyboardInterrupt
