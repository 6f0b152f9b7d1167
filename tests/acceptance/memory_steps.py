"""Functions for `python` steps that make rows large."""

from __future__ import annotations

from typing import Any


def touch(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Change one column, and don't touch the document beside it."""
    for row in rows:
        row["id"] += 1
    return rows


def widen(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add 300 kB to every row."""
    for row in rows:
        row["wide"] = f"{row['id']}{'w' * 300_000}"
    return rows


def widen_late(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add 300 kB to every row after the first 3,000."""
    for row in rows:
        row["wide"] = f"{row['id']}{'w' * 300_000}" if row["id"] > 3000 else ""
    return rows
