"""The service itself, in this process: what `serve` is in one of its own."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from opentelemetry.trace import Tracer

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.app.service import service
from pipeline_processing.serving import intake
from pipeline_processing.settings.settings import Settings
from pipeline_processing.telemetry.masking import Mask


@asynccontextmanager
async def serving(settings: Settings, config: AgencyJobConfig, *, tracer: Tracer, mask: Mask) -> AsyncIterator[None]:
    """
    The service is at work inside the block, and hands back what it has in hand when the block is left.

    If it ends by itself, so does the block, with what ended it.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()
    try:
        async with service(settings, config, tracer=tracer, mask=mask) as parts, asyncio.TaskGroup() as group:
            group.create_task(parts.run(stop, hurry, once=False))
            yield
            hurry.set()
            stop.set()
    except ExceptionGroup as errors:
        # What came first. The rest was broken off for its sake.
        raise errors.exceptions[0] from None


@contextmanager
def dead_letters_are_no_news() -> Iterator[None]:
    """Inside the block the intake doesn't warn of them: they are told of elsewhere."""
    logger = logging.getLogger(intake.__name__)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
