"""
SIGINT and SIGTERM as exceptions of types of their own.

User code may raise KeyboardInterrupt as well. Only what these handlers raise was meant for the process.
"""

from typing import NoReturn


class Interrupted(KeyboardInterrupt):
    """SIGINT: somebody pressed Ctrl-C."""


class Terminated(BaseException):
    """SIGTERM."""


def raise_interrupted(*_: object) -> NoReturn:
    """The handler of SIGINT outside of an event loop."""
    raise Interrupted


def raise_terminated(*_: object) -> NoReturn:
    """The handler of SIGTERM outside of an event loop."""
    raise Terminated
