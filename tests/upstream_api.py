"""
An API for tests: a real HTTP server on the loopback interface, in the test's event loop.

    async with UpstreamApi() as api:
        api.on("/records", linked(records, size=100))        # the answer of a path
        api.on("/labels", labels({1: "one", 2: "two"}))      # /labels?ids=1,2
        api.faults.append(share_of(0.3, Reply(status=503), seed=7))  # faults instead of some answers
        ... api.url("/records") ...
        assert api.asked[0].headers["Authorization"] == "Bearer s3cret"
"""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web
from multidict import CIMultiDictProxy

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Asked:
    """A received request."""

    raw: str
    """Path and query as sent."""
    path: str
    """Decoded, without the query."""
    query: Mapping[str, str]
    headers: CIMultiDictProxy[str]
    host: str
    method: str = "GET"
    body: bytes = b""


@dataclass(frozen=True)
class Reply:
    """An answer. `body` is written as JSON unless it is bytes."""

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    chunked: bool = False
    after: asyncio.Event | None = None
    """Nothing is sent before this event."""
    halfway: asyncio.Event | None = None
    """The second half of the body isn't sent before this event."""


@dataclass(frozen=True)
class Raw:
    """Bytes instead of an answer, such as garbage or half an answer, after which the connection is closed."""

    content: bytes


Answered = Reply | Raw | Any
"""Any other value is the body of a 200."""
Handler = Callable[[Asked], Answered | Awaitable[Answered]]
Fault = Callable[[Asked], Reply | Raw | None]
"""Returns what to send instead of the request's answer, or None to leave that alone."""


class UpstreamApi:
    """Listens inside the block. `asked` are all requests so far, including those that got a fault."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self._handlers: dict[str, Handler] = {}
        self._tls = tls

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, LOOPBACK, 0, ssl_context=self._tls)
        await site.start()
        self.port: int = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def url(self, path: str = "/") -> str:
        """Return the URL of a path."""
        return f"{'http' if self._tls is None else 'https'}://{LOOPBACK}:{self.port}{path}"

    def on(self, path: str, handler: Handler | Answered) -> None:
        """Set the handler of a (decoded) path, or its constant answer."""
        self._handlers[path] = handler if callable(handler) else lambda asked: handler

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        asked = Asked(
            request.raw_path,
            request.path,
            dict(request.query),
            request.headers,
            request.host,
            request.method,
            await request.read(),
        )
        self.asked.append(asked)
        for fault in self.faults:
            if (reply := fault(asked)) is not None:
                return await _send(request, reply)
        if asked.path not in self._handlers:
            return await _send(request, Reply(status=404))
        answered = self._handlers[asked.path](asked)
        return await _send(request, await answered if inspect.isawaitable(answered) else answered)


async def _send(request: web.BaseRequest, answered: Answered) -> web.StreamResponse:
    if isinstance(answered, Raw):
        assert request.transport is not None
        request.transport.write(answered.content)
        request.transport.close()  # after writing the bytes
        return web.Response()
    reply = answered if isinstance(answered, Reply) else Reply(answered)
    body = reply.body if isinstance(reply.body, bytes) else json_of(reply.body)
    if reply.after is not None:
        await reply.after.wait()
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    if reply.chunked:
        response.enable_chunked_encoding()
    else:
        response.content_length = len(body)
    await response.prepare(request)
    half = len(body) // 2
    await response.write(body[:half])
    if reply.halfway is not None:
        await reply.halfway.wait()
    await response.write(body[half:])
    await response.write_eof()
    return response


# -- pages ---------------------------------------------------------------------------------------


def json_of(value: Any) -> bytes:
    """Return JSON with any bytes inserted verbatim, for numbers and text that Python would write differently."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, Mapping):
        return b"{" + b",".join(json_of(str(key)) + b":" + json_of(each) for key, each in value.items()) + b"}"
    if isinstance(value, list | tuple):
        return b"[" + b",".join(map(json_of, value)) + b"]"
    return json.dumps(value).encode()


def linked(records: Sequence[Any], *, size: int, links_first: bool = False) -> Handler:
    """`{"data": {"items": […]}, "links": {"next": "/…?page=2"}}`; next is null on the last page."""

    def answer(asked: Asked) -> Any:
        number = int(asked.query.get("page", "1"))
        more = number * size < len(records)
        data = {"data": {"items": _page(records, number, size)}}
        links = {"links": {"next": f"{asked.path}?page={number + 1}" if more else None}}
        return links | data if links_first else data | links

    return answer


def linked_by_header(records: Sequence[Any], *, size: int) -> Handler:
    """`[…]`, with a Link header."""

    def answer(asked: Asked) -> Reply:
        number = int(asked.query.get("page", "1"))
        links = [f'<{asked.path}?page=1>; rel="first"']
        if number * size < len(records):
            links.append(f'<{asked.path}?page={number + 1}>; rel="next"')
        return Reply(_page(records, number, size), headers={"Link": ", ".join(links)})

    return answer


def with_cursor(records: Sequence[Any], *, size: int, param: str = "cursor") -> Handler:
    """`{"items": […], "meta": {"cursor": "after/10?"}}`: the cursor is missing on the last page."""

    def answer(asked: Asked) -> Any:
        given = asked.query.get(param)
        start = 0 if given is None else int(given.removeprefix("after/").removesuffix("?"))
        end = start + size
        meta = {"cursor": f"after/{end}?"} if end < len(records) else {}
        return {"items": list(records[start:end]), "meta": meta}

    return answer


def numbered(records: Sequence[Any], *, size: int, first: int = 1, param: str = "page") -> Handler:
    """`{"items": […]}`: an empty list after the last page."""
    return lambda asked: {"items": _page(records, int(asked.query[param]) - first + 1, size)}


def labels(table: Mapping[Any, str], *, param: str = "ids") -> Handler:
    """`/labels?ids=1,2` → `[{"id": 1, "label": "one"}, …]`, without unknown ids."""
    by_text = {str(key): (key, label) for key, label in table.items()}

    def answer(asked: Asked) -> Any:
        found = [by_text[one] for one in asked.query[param].split(",") if one in by_text]
        return [{"id": key, "label": label} for key, label in found]

    return answer


def _page(records: Sequence[Any], number: int, size: int) -> list[Any]:
    return list(records[(number - 1) * size : number * size])


# -- faults --------------------------------------------------------------------------------------


def share_of(share: float, reply: Reply | Raw, *, seed: int) -> Fault:
    """Send the reply to a random share of all requests, chosen by the seed."""
    chance = random.Random(seed)
    return lambda asked: reply if chance.random() < share else None


def first(count: int, *replies: Reply | Raw) -> Fault:
    """Send these replies, in turn, to the first `count` requests."""
    given = iter([replies[index % len(replies)] for index in range(count)])
    return lambda asked: next(given, None)


def cut_off(body: bytes, *, missing: int = 100) -> Raw:
    """Return an incomplete answer, whose Content-Length is too large by `missing` bytes."""
    length = len(body) + missing
    return Raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length + body)
