"""Server-sent events to one page."""

import asyncio

from starlette.types import Receive, Scope, Send

from pipeline_processing.board.live import Live
from pipeline_processing.board.problems import problem

_HEARTBEAT_SECONDS = 15.0
_GATHER_SECONDS = 0.2
"""Shortest time between two writes: what comes meanwhile is merged."""
_MOST_PAGES = 200
_RETRY = b"retry: 2000\n\n"
_HEARTBEAT = b": still here\n\n"


class EventStream:
    """ASGI app that sends what happens until the page or the process leaves."""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._live.pages >= _MOST_PAGES:
            busy = problem(503, "Too many pages", f"{_MOST_PAGES} pages are open on this board. Close one, or wait.")
            await busy(scope, receive, send)
            return
        with self._live.subscribed() as page:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            gone = asyncio.create_task(_disconnected(receive))
            try:
                await send({"type": "http.response.body", "body": _RETRY, "more_body": True})
                while not page.closed:
                    taking = asyncio.create_task(page.take(seconds=_HEARTBEAT_SECONDS))
                    await asyncio.wait((taking, gone), return_when=asyncio.FIRST_COMPLETED)
                    if not taking.done():
                        taking.cancel()
                        break
                    # Waits while the page reads slowly.
                    chunk = taking.result() or _HEARTBEAT
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    await asyncio.wait((gone,), timeout=_GATHER_SECONDS)
                if not gone.done():
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
