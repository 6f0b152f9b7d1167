"""The step function of the job in `orders.py`."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

Rows = list[dict[str, Any]]


def settle(rows: Rows) -> Rows:
    """Computes the amount due, drops some rows, and rejects others. Values are Python's types."""
    kept = []
    for row in rows:
        if row["id"] % 2999 == 0:
            raise ValueError("no tax rate for this order")
        if row["id"] % 59 == 0:
            continue
        gross, credit = row["gross"], row["credit"]
        assert gross is None or isinstance(gross, Decimal)
        assert credit is None or isinstance(credit, Decimal)
        assert isinstance(row["placed_at"], datetime)
        row["due"] = None if gross is None else gross - (credit or 0)
        row["summary"] = f"{row['label']} → {row['ship_city']}"
        kept.append(row)
    return kept
