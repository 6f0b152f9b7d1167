"""Functions for `python` steps."""

from typing import Any

Rows = list[dict[str, Any]]


def identity(rows: Rows) -> Rows:
    """The very same rows."""
    return rows


async def copies(rows: Rows) -> Rows:
    """New rows with the same values."""
    return [{**row} for row in rows]


def upper(rows: Rows) -> Rows:
    """Change one column in place."""
    for row in rows:
        row["text"] = row["text"] and row["text"].upper()
    return rows
