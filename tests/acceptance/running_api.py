"""An upstream API for commands in other processes: `UpstreamApi` in an event loop in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.upstream_api import UpstreamApi


@contextmanager
def running_api() -> Iterator[UpstreamApi]:
    """Listens inside the block. Its handlers run in the thread; `asked` can be read once the command has ended."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="upstream-api", daemon=True)
    thread.start()
    api = UpstreamApi()
    asyncio.run_coroutine_threadsafe(api.__aenter__(), loop).result()
    try:
        yield api
    finally:
        asyncio.run_coroutine_threadsafe(api.__aexit__(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
