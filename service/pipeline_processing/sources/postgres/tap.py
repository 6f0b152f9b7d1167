"""A protocol between a connection's transport and asyncpg."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

_ROW_DESCRIPTION = ord("T")


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
        keep_open: bool | None = self._receiver.eof_received()
        return keep_open

    def connection_lost(self, error: Exception | None) -> None:
        self._receiver.connection_lost(error)

    def pause_writing(self) -> None:
        self._receiver.pause_writing()

    def resume_writing(self) -> None:
        self._receiver.resume_writing()


class Descriptions(Tap):
    """Keeps what the server says of a statement while it is prepared, of which asyncpg shows only some."""

    def __init__(self, transport: Any, receiver: Any) -> None:
        super().__init__(transport, receiver)
        self._heard = bytearray()

    @classmethod
    @contextmanager
    def of(cls, connection: Any) -> Iterator[Self]:
        """Listen to an idle asyncpg connection for the block."""
        transport = transport_of(connection)
        receiver = transport.get_protocol()
        listener = cls(transport, receiver)
        transport.set_protocol(listener)
        try:
            yield listener
        finally:
            transport.set_protocol(receiver)

    def data_received(self, data: bytes) -> None:
        self._heard += data
        super().data_received(data)

    def modifiers(self) -> list[int]:
        """
        Return the type modifier of each column of the first statement; -1 for none.

        Messages: https://www.postgresql.org/docs/current/protocol-message-formats.html (RowDescription)
        """
        heard, at = self._heard, 0
        while at < len(heard) and heard[at] != _ROW_DESCRIPTION:
            at += 1 + int.from_bytes(heard[at + 1 : at + 5])
        columns, at = int.from_bytes(heard[at + 5 : at + 7]), at + 7
        modifiers = []
        for _ in range(columns):
            at = heard.index(0, at) + 1  # behind the name
            modifiers.append(int.from_bytes(heard[at + 12 : at + 16], signed=True))
            at += 18
        return modifiers


def transport_of(connection: Any) -> Any:
    """Return an asyncpg connection's transport, to which it has no public way."""
    return connection._transport
