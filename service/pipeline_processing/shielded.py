"""Work that a cancellation may delay, never break off."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from pipeline_processing.user_code import contained

T = TypeVar("T")


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """
    Run `work` to its end even if the caller is cancelled meanwhile, and only then raise the CancelledError.

    Unlike a bare `asyncio.shield`, which leaves the work behind as an orphan. Limit the time inside `work`.
    """
    task = asyncio.create_task(contained(work))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # seen, so that asyncio doesn't complain; the cancellation goes before it
        raise cancelled
    return task.result()
