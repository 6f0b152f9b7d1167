"""Functions for `python:` steps of the acceptance tests."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import Any

import asyncpg

from pipeline_processing.errors import SourceUnavailable

Rows = list[dict[str, Any]]


def fail(rows: Rows) -> Rows:
    """Raises ValueError."""
    raise ValueError("row 3 has no postcode")


def double(rows: Rows) -> Rows:
    """Returns every row twice."""
    return rows + rows


def lose_half(rows: Rows) -> Rows:
    """Drops every second row, which counts as filtered."""
    return rows[::2]


async def take_a_second(rows: Rows) -> Rows:
    """Keeps the run busy."""
    await asyncio.sleep(1)
    return rows


async def change_payments(rows: Rows) -> Rows:
    """Changes other rows of the source, as another client may at any time."""
    connection = await asyncpg.connect(os.environ["PIPELINE_SOURCE__DSN"])
    try:
        await connection.execute("UPDATE payments SET payee = 'changed meanwhile'")
    finally:
        await connection.close()
    return rows


def break_off_once(rows: Rows) -> Rows:
    """On the first call, raises what a source that breaks off does."""
    try:
        Path("has_broken_off").touch(exist_ok=False)
    except FileExistsError:
        return rows
    raise SourceUnavailable("The connection was cut off.")


def unmount_once(rows: Rows) -> Rows:
    """On the first call, removes the destination's folder for two seconds."""
    folder, aside = Path("exports"), Path("aside")
    with suppress(FileExistsError):
        Path("was_away").touch(exist_ok=False)
        folder.rename(aside)
        Timer(2.0, aside.rename, [folder]).start()
    return rows


async def cut_off_the_source_once(rows: Rows) -> Rows:
    """On the first call on this database, ends the connection that the run reads from."""
    connection = await asyncpg.connect(os.environ["PIPELINE_SOURCE__DSN"])
    try:
        await connection.execute("CREATE TABLE cut_off ()")
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
        )
    except asyncpg.DuplicateTableError:
        pass
    finally:
        await connection.close()
    return rows
