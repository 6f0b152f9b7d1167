"""Free ports on 127.0.0.1."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Sequence

LOOPBACK = "127.0.0.1"

# All ports, and those that SeaweedFS adds 10000 to, are below 32768, where Linux begins to take ports for outgoing
# connections. So only another server can take one between this look and the bind. They are picked at random, because
# test workers start at the same time. If a port is taken all the same, the server is started again with others.
_FIRST_PORT, _LAST_PORT = 10_000, 22_700
_TRIES = 1_000


def free_ports(count: int, *, offsets: Sequence[int] = (0,)) -> list[int]:
    """
    Different ports that nothing listens on now, each below 22,701.

    With `offsets`, each of port + offset is free, and no two overlap.

    Raises OSError when there are none.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:  # until all are found: so that they differ
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
        # The servers set this too: a port whose last connections are in TIME_WAIT is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener
