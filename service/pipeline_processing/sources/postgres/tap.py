"""A protocol between a connection's transport and asyncpg."""

import asyncio
from typing import Any


class Tap(asyncio.Protocol):
    """Forwards everything to the protocol that it replaces. Subclasses change what the server sends."""

    def __init__(self, transport: Any, receiver: Any) -> None:
        """`receiver` is the transport's protocol until now."""
        self._transport = transport
        self._receiver = receiver
        self.received = 0
        """Bytes from the server, for a bill. A COPY adds them to its run itself."""

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol. Chunks have a few kilobytes."""
        self.received += len(data)
        self._receiver.data_received(data)

    def eof_received(self) -> bool | None:
        """See asyncio.Protocol."""
        keep_open: bool | None = self._receiver.eof_received()
        return keep_open

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._receiver.connection_lost(error)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._receiver.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._receiver.resume_writing()


def transport_of(connection: Any) -> Any:
    """Return an asyncpg connection's transport, to which it has no public way."""
    return connection._transport
