"""Functions for `python` steps, good and bad."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from decimal import Decimal
from typing import Any

from pipeline_processing.errors import Throttled

Rows = list[dict[str, Any]]

seen: Rows = []


def watch(rows: Rows) -> Rows:
    """Remember what came."""
    seen[:] = rows
    return rows


def keep_and_see_twin(rows: Rows) -> Rows:
    """Change a document in place, and remember the rows."""
    for row in rows:
        row["twin"]["seen"] = 1
    return watch(rows)


def copy_email(rows: Rows) -> Rows:
    return [row | {"mail": row["email"]} for row in rows]


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


def fail_on_odd(rows: Rows) -> Rows:
    for row in rows:
        row["seen"] = True
        row.get("doc", {}).setdefault("seen", True)
        if row["id"] % 2:
            raise ValueError(f"odd: {row['id']}")
    return [row for row in rows if row["id"] % 4]


async def fail_on_odd_async(rows: Rows) -> Rows:
    return fail_on_odd(rows)


def reverse(rows: Rows) -> Rows:
    rows.reverse()
    return rows


def copies(rows: Rows) -> Rows:
    return [dict(row) for row in rows]


def fewer_copies(rows: Rows) -> Rows:
    return [dict(row) for row in rows[1:]]


def swapped_and_new(rows: Rows) -> Rows:
    return [rows[1], {"id": 0}]


def same_twice(rows: Rows) -> Rows:
    return [rows[0], rows[0]]


def fail_where_two(rows: Rows) -> Rows:
    """Something other than the rows it got, once it works on them one by one."""
    if len(rows) > 1:
        raise ValueError("together")
    return [*rows, *rows] if rows[0]["id"] == 2 else rows


def unspeakable(rows: Rows) -> Rows:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    raise Unspeakable


def long_winded(rows: Rows) -> Rows:
    raise ValueError("x" * 10_000)


def exiting(rows: Rows) -> Rows:
    sys.exit("enough")


async def exiting_async(rows: Rows) -> Rows:
    sys.exit("enough")


def exiting_on_odd(rows: Rows) -> Rows:
    """On a batch it only raises."""
    if len(rows) > 1:
        raise ValueError("together")
    return exiting(rows) if rows[0]["id"] % 2 else rows


def interrupting(rows: Rows) -> Rows:
    raise KeyboardInterrupt


async def interrupting_async(rows: Rows) -> Rows:
    raise KeyboardInterrupt


async def cancelling_async(rows: Rows) -> Rows:
    raise asyncio.CancelledError


async def exiting_in_a_task(rows: Rows) -> Rows:
    async with asyncio.TaskGroup() as group:
        group.create_task(exiting_async(rows))
    return rows


class Worst(BaseException):
    """Even its text ends the process."""

    def __str__(self) -> str:
        sys.exit("enough")


async def worst(rows: Rows) -> Rows:
    raise Worst


def stopping(rows: Rows) -> Rows:
    raise StopIteration("no more")


def _undecorated(function: Any) -> Any:
    def call(rows: Rows) -> Any:
        return function(rows)

    return call


decorated_async = _undecorated(double)

threads: list[threading.Thread] = []


def note_thread(rows: Rows) -> Rows:
    threads.append(threading.current_thread())
    return rows


may_go_on = threading.Event()
hanging = threading.Event()
ended = threading.Event()


def hang(rows: Rows) -> Rows:
    """Until a test lets it go on."""
    hanging.set()
    may_go_on.wait()
    ended.set()
    return rows


events: list[str] = []


class Opened:
    """A step with something to open and close."""

    def __init__(self) -> None:
        events.append("made")

    async def __aenter__(self) -> "Opened":
        events.append("opened")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        events.append(f"closed {kind.__name__ if kind else 'well'}")
        return True  # which must not hide an error

    def __call__(self, rows: Rows) -> Rows:
        events.append("called")
        return rows


@asynccontextmanager
async def opened() -> AsyncIterator[Any]:
    events.append("opened")

    async def step(rows: Rows) -> Rows:
        events.append("called")
        return rows

    try:
        yield step
    finally:
        events.append("closed")


@asynccontextmanager
async def opened_badly() -> AsyncIterator[Any]:
    yield 5


class Unopenable(Opened):
    async def __aenter__(self) -> "Opened":
        raise OSError("no such server")


class Throttling(Opened):
    async def __aenter__(self) -> "Opened":
        raise Throttled("the upstream asks for patience")


class Unclosable(Opened):
    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        raise OSError("broken pipe")


class NeverOpened:
    def __call__(self, rows: Rows) -> Rows:
        return rows


open_already = Opened()
events.clear()


class ExitingWhenMade(Opened):
    def __init__(self) -> None:
        sys.exit("enough")


class ExitingWhenOpened(Opened):
    async def __aenter__(self) -> "Opened":
        sys.exit("enough")


class InterruptingWhenClosed(Opened):
    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        raise KeyboardInterrupt


@asynccontextmanager
async def exiting_between() -> AsyncIterator[Any]:
    """What it has started ends it, if nothing was to do meanwhile."""
    async with asyncio.TaskGroup() as group:
        group.create_task(exiting_async([]))
        yield watch


in_one_task: list[Any] = []


@asynccontextmanager
async def one_task() -> AsyncIterator[Any]:
    """Needs to be entered, used and left in one task, as a timeout does."""
    async with asyncio.timeout(3600):
        in_one_task.append(asyncio.current_task())

        async def step(rows: Rows) -> Rows:
            in_one_task.append(asyncio.current_task())
            return rows

        yield step
    in_one_task.append(asyncio.current_task())


async def computing(rows: Rows) -> Rows:
    """Until a test lets it go on, and without waiting for anything."""
    hanging.set()
    may_go_on.wait()
    ended.set()
    return rows


set_when_opened: ContextVar[str] = ContextVar("set_when_opened", default="unset")


class SetsVariable(Opened):
    """A plain function sees what was set when it was opened."""

    async def __aenter__(self) -> "Opened":
        set_when_opened.set("set")
        return self

    def __call__(self, rows: Rows) -> Rows:
        return [{**row, "variable": set_when_opened.get()} for row in rows]


async def async_generator(rows: Rows) -> AsyncIterator[Any]:
    yield rows


def columns_upper(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """By columns: change one, add one."""
    names = columns["name"]
    return {"name": [name and name.upper() for name in names], "length": [name and len(name) for name in names]}


def columns_refuse_b(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    if "b" in columns["name"]:
        raise ValueError("no b here")
    return columns_upper(columns)


def columns_again(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """By columns: double text."""
    return {name: [each and each * 2 if name == "name" else each for each in columns[name]] for name in columns}
