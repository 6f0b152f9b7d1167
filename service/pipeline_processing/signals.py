"""
SIGINT and SIGTERM as separate exception types.

User code may raise KeyboardInterrupt, too. Only exceptions raised by these handlers are meant for the process.
"""

from typing import NoReturn


class Interrupted(KeyboardInterrupt):
    """SIGINT, such as from Ctrl-C."""


class Terminated(BaseException):
    """SIGTERM."""


def raise_interrupted(*_: object) -> NoReturn:
    """Handle SIGINT outside an event loop."""
    raise Interrupted


def raise_terminated(*_: object) -> NoReturn:
    """Handle SIGTERM outside an event loop."""
    raise Terminated
