"""
Functions for `python:` steps that fail in different ways. Rows have `id` and `name`.

Those that hang first create a file with their name in the command's working directory.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]

LATE = 2500
"""The number, among an agency's documents, of the row on which some fail."""


def raises(rows: Rows) -> Rows:
    raise LookupError("no such street")


async def raises_async(rows: Rows) -> Rows:
    await asyncio.sleep(0)
    raise LookupError("no such street")


async def raises_in_a_group(rows: Rows) -> Rows:
    async with asyncio.TaskGroup() as group:
        group.create_task(raises_async(rows))
    return rows


def raises_late(rows: Rows) -> Rows:
    """Raises after more than 1 MiB has been uploaded."""
    if any(row["id"] % 100_000 == LATE for row in rows):
        raise LookupError("no such street")
    return rows


def exits(rows: Rows) -> Rows:
    raise SystemExit(0)


async def exits_async(rows: Rows) -> Rows:
    raise SystemExit(0)


async def exits_in_a_task(rows: Rows) -> Rows:
    async with asyncio.TaskGroup() as group:
        group.create_task(exits_async(rows))
    return rows


async def interrupts(rows: Rows) -> Rows:
    raise KeyboardInterrupt


@asynccontextmanager
async def exits_when_opened() -> AsyncIterator[Any]:
    yield sys.exit(0)


@asynccontextmanager
async def interrupts_when_closed() -> AsyncIterator[Any]:
    yield list
    raise KeyboardInterrupt


def returns_none(rows: Rows) -> None:
    return None


def returns_generator(rows: Rows) -> Any:
    yield from rows


async def returns_numbers(rows: Rows) -> Any:
    return [row["id"] for row in rows]


def adds_rows(rows: Rows) -> Rows:
    return [*rows, *(dict(row) for row in rows)]


async def adds_one_row(rows: Rows) -> Rows:
    return [*rows, {"id": 0}]


def loses_a_column(rows: Rows) -> Rows:
    return [{name: value for name, value in row.items() if name != "name"} for row in rows]


def loses_it_once(rows: Rows) -> Rows:
    del rows[2]["name"]
    return rows


def sleeps(rows: Rows) -> Rows:
    Path("sleeps").touch()
    time.sleep(3600)
    return rows


def spins(rows: Rows) -> Rows:
    Path("spins").touch()
    while True:
        pass


async def never_ends(rows: Rows) -> Rows:
    Path("never_ends").touch()  # noqa: ASYNC240  # nothing else runs in this loop
    await asyncio.Event().wait()
    return rows


def ends_the_process(rows: Rows) -> Rows:
    """Ends the process as a segmentation fault or the OOM killer would, but only for the rows of agency 666."""
    if any(row["agency_id"] == 666 for row in rows):
        os._exit(7)
    return rows
