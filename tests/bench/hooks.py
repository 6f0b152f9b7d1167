"""Steps as a user might write them."""

from typing import Any


def change_two_columns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Upper-case one column, mark another."""
    for row in rows:
        row["name"] = row["name"].upper()
        row["status"] = f"{row['status']}!"
    return rows


def change_two_lists(columns: dict[str, list[str]]) -> dict[str, list[str]]:
    """The same, for a step that takes columns."""
    return {
        "name": [name.upper() for name in columns["name"]],
        "status": [f"{status}!" for status in columns["status"]],
    }
