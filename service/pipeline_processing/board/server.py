"""Run the board's server in the process's own event loop, under the process's own signals."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from pipeline_processing.errors import SettingsError
from pipeline_processing.log import get_logger

log = get_logger(__name__)

GRACE_SECONDS = 3.0
"""How long requests may take to end after a signal."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Listen on an address. Raises SettingsError if that isn't possible."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise SettingsError(
            f"The board can't listen on {host}, port {port}: {error.strerror or error}. "
            "Set PIPELINE_BOARD__HOST and PIPELINE_BOARD__PORT to an address of this machine and a free port."
        ) from None
    with listener:
        yield listener


async def serve(app: ASGIApp, listener: socket.socket, *, stop: asyncio.Event) -> None:
    """Answer requests until `stop` is set and those under way have ended, or `GRACE_SECONDS` have passed."""
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=round(GRACE_SECONDS),
        )
    )
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(sockets=[listener]))
        stopping = group.create_task(stop.wait())
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        stopping.cancel()
