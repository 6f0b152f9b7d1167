"""Waiting that ends when it is time to stop."""

import asyncio


class Stopped(Exception):
    """Told to stop before it was done."""


async def first_of(*events: asyncio.Event, seconds: float) -> None:
    """Wait until one of the events is set, and for so long at most."""
    if any(event.is_set() for event in events):
        return
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
