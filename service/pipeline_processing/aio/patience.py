"""Asking the history again when no answer came."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import HistoryUnavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")

_PAUSE_SECONDS = 0.2


async def until_answered(ask: Callable[[], Awaitable[T]], *, clock: Clock) -> T:
    """
    Ask the history until it answers. For use under a lease, whose end ends it.

    The reply may be all that was lost, and only the same question again can tell: every write of the run table may be
    repeated.
    """
    asked_again = False
    while True:
        try:
            return await ask()
        except HistoryUnavailable as error:
            if not asked_again:  # said once: it may take minutes
                log.warning("no answer from the history; asking again until there is one", error=str(error))
            asked_again = True
            await clock.sleep(_PAUSE_SECONDS)
