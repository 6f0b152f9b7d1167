"""Free ports on 127.0.0.1."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Sequence

LOOPBACK = "127.0.0.1"

# All ports, including SeaweedFS's at +10000, are below 32768, where Linux's ports for outgoing connections begin. So
# only another server can take one before it is bound; then the server is restarted with other ports. They are random,
# because test workers start at the same time.
_FIRST_PORT, _LAST_PORT = 10_000, 22_700
_TRIES = 1_000


def free_ports(count: int, *, offsets: Sequence[int] = (0,)) -> list[int]:
    """
    Return different ports below 22,701 that nothing listens on.

    With `offsets`, every port + offset is free too, and no two overlap. Raises OSError if there are none.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:  # hold each until all are found, so that they differ
        for _ in range(_TRIES):
            if len(found) == count:
                return found
            port = _FIRST_PORT + secrets.randbelow(_LAST_PORT - _FIRST_PORT + 1)
            with contextlib.suppress(OSError):
                for offset in offsets:
                    held.enter_context(_listen(port + offset))
                found.append(port)
    raise OSError(f"No {count} free ports on {LOOPBACK} between {_FIRST_PORT} and {_LAST_PORT}.")


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # As the servers do: a port whose last connections are in TIME_WAIT is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener
