"""
User code that blocks: it computes until there is a file `go-on` in the command's working directory.

Rows have an `id`, whose thousands are the agency.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from pydantic import BaseModel, field_validator

Rows = list[dict[str, Any]]

BLOCKS_IN_FUNCTION, BLOCKS_IN_MODEL = 4, 3
"""Agencies."""


def compute() -> None:
    """Compute without ever waiting."""
    while not Path("go-on").exists():
        sum(range(10_000))


async def function(rows: Rows) -> Rows:
    """Blocks its event loop for one agency; for others, it awaits properly."""
    if rows[0]["id"] // 1000 == BLOCKS_IN_FUNCTION:
        compute()
    while not Path("go-on").exists():  # noqa: ASYNC110, ASYNC240  # there is nothing to wait for
        await asyncio.sleep(0.05)
    return rows


class Model(BaseModel):
    """Blocks the event loop in which `validate` runs, for another agency."""

    id: int

    @field_validator("id")
    @classmethod
    def _computed(cls, value: int) -> int:
        if value // 1000 == BLOCKS_IN_MODEL:
            compute()
        return value
