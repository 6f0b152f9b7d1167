"""Ask an ASGI application without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Scope


@dataclass
class Answer:
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def _scope(method: str, url: str, headers: Mapping[str, str]) -> Scope:
    parts = urlsplit(url)
    given = {"host": "localhost:6066"} | {name.lower(): value for name, value in headers.items()}
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": parts.path,
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 6066),
    }


async def ask(
    app: ASGIApp, url: str, *, method: str = "GET", body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Answer:
    """Return the response to one request."""
    received: list[Message] = []
    sent = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        message = next(sent, None)
        if message is None:
            await asyncio.Event().wait()
        assert message is not None
        return message

    async def send(message: Message) -> None:
        received.append(message)

    await app(_scope(method, url, headers or {}), receive, send)
    return Answer(
        status=received[0]["status"],
        headers={name.decode(): value.decode() for name, value in received[0]["headers"]},
        body=b"".join(message.get("body", b"") for message in received[1:]),
    )


class Stream:
    """The events of a page."""

    def __init__(self) -> None:
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self.reading = asyncio.Event()
        self.reading.set()
        self.ended = False

    async def next(self) -> list[tuple[str, Any]]:
        """Wait for the next write, and return its events. A comment is an event without a name."""
        text = (await self.chunks.get()).decode()
        events = []
        for block in filter(None, text.split("\n\n")):
            fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
            events.append((fields.get("event", ""), json.loads(fields["data"]) if "data" in fields else None))
        return events


@asynccontextmanager
async def streaming(app: ASGIApp, url: str = "/api/v1/live") -> AsyncIterator[Stream]:
    """Open a page's stream. Leaving the block disconnects it. While `reading` is unset, the page reads nothing."""
    stream, gone = Stream(), asyncio.Event()

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        await stream.reading.wait()
        if message["type"] == "http.response.body":
            stream.ended = not message["more_body"]
            await stream.chunks.put(message["body"])

    async def asked() -> None:
        await app(_scope("GET", url, {}), receive, send)

    asking = asyncio.create_task(asked())
    try:
        assert await stream.next() == [("", None)]  # the time to reconnect
        yield stream
    finally:
        gone.set()
        stream.reading.set()
        await asking
