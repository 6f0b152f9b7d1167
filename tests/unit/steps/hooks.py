"""Functions for `python` steps, good and bad."""

import time
from decimal import Decimal
from typing import Any

from pipeline_processing.errors import Throttled

Rows = list[dict[str, Any]]

seen: Rows = []


def watch(rows: Rows) -> Rows:
    """Remember what came."""
    seen[:] = rows
    return rows


def drop_odd(rows: Rows) -> Rows:
    return [row for row in rows if row["id"] % 2 == 0]


async def double(rows: Rows) -> Rows:
    return [{**row, "amount": row["amount"] * 2} for row in rows]


def add_rows(rows: Rows) -> Rows:
    return [*rows, *rows]


def add_one(rows: Rows) -> Rows:
    return [*rows, {"id": 0}]


def nothing(rows: Rows) -> None:
    return None


def generator(rows: Rows) -> Any:
    yield from rows


def no_dicts(rows: Rows) -> Any:
    return [1]


def fail(rows: Rows) -> Rows:
    raise LookupError("no such street")


def throttled(rows: Rows) -> Rows:
    raise Throttled("the upstream asks for patience")


def sleepy(rows: Rows) -> Rows:
    time.sleep(0.3)  # the blocking itself is what is tested
    return rows


def other_columns(rows: Rows) -> Rows:
    return [{"a": 1} if number else {"a": 1, "b": 2} for number, _ in enumerate(rows)]


def surprising(rows: Rows) -> Rows:
    return [{"a": 1, **({"b": 2} if number else {})} for number, _ in enumerate(rows)]


class Namespace:
    """Functions may be attributes."""

    @staticmethod
    def upper(rows: Rows) -> Rows:
        return [{**row, "name": row["name"].upper()} for row in rows]


class Callable:
    """So may callable objects."""

    def __call__(self, rows: Rows) -> Rows:
        return rows


class AsyncCallable:
    async def __call__(self, rows: Rows) -> Rows:
        return rows


an_object = Callable()
an_async_object = AsyncCallable()
not_a_function = Decimal(5)
