"""`python` calls a function of the user's own, and trusts nothing that it returns."""

import asyncio
import threading
from decimal import Decimal

import pytest

from pipeline_processing.errors import InvalidStep, StepAddedRows, StepFailed, Throttled
from pipeline_processing.ports import Column
from pipeline_processing.steps.python import Python
from tests.unit.steps import hooks

HOOKS = "tests.unit.steps.hooks"
COLUMNS = (Column("id"), Column("amount", natural=Decimal))


def step(function: str, columns: tuple[Column, ...] | None = COLUMNS) -> Python:
    return Python(f"{HOOKS}:{function}", columns, dataset="records")


async def test_the_function_sees_natural_values():
    """Carried values are turned into Python's; null stays None."""
    await step("watch")([{"id": 1, "amount": "1.50"}, {"id": 2, "amount": None}])

    assert hooks.seen == [{"id": 1, "amount": Decimal("1.50")}, {"id": 2, "amount": None}]


async def test_plain_and_async_functions():
    """Both are called with the whole batch."""
    assert await step("double")([{"id": 1, "amount": "1.50"}]) == [{"id": 1, "amount": Decimal("3.00")}]
    assert await step("Namespace.upper")([{"id": 1, "amount": None, "name": "a"}]) == [
        {"id": 1, "amount": None, "name": "A"}
    ]
    assert await step("an_object", None)([{"id": 1}]) == [{"id": 1}]
    assert await step("an_async_object", None)([{"id": 1}]) == [{"id": 1}]


async def test_rows_that_are_left_out_count_as_filtered():
    """Over all batches."""
    python = step("drop_odd", None)

    assert await python([{"id": 1}, {"id": 2}, {"id": 3}]) == [{"id": 2}]
    assert await python([{"id": 1}]) == []
    assert python.filtered == 3
    assert python.columns is None


@pytest.mark.parametrize("function", ["add_rows", "add_one"])
async def test_rows_cannot_be_added(function: str):
    """One more than it got is one too many."""
    with pytest.raises(StepAddedRows, match=r"got 2 rows and returned") as raised:
        await step(function, None)([{"id": 1}, {"id": 2}])

    assert raised.value.kind == "step_added_rows"


@pytest.mark.parametrize(
    ("function", "message"),
    [("nothing", "NoneType"), ("generator", "generator"), ("no_dicts", "int"), ("fail", "LookupError: no such street")],
)
async def test_what_is_not_rows_is_the_steps_fault(function: str, message: str):
    """The error names step, dataset, cause and remedy."""
    with pytest.raises(StepFailed, match=message) as raised:
        await step(function, None)([{"id": 1}])

    assert f"python: {HOOKS}:{function}" in str(raised.value)
    assert "'records'" in str(raised.value)


async def test_the_services_own_errors_pass():
    """A function may say itself that trying again helps."""
    with pytest.raises(Throttled):
        await step("throttled", None)([{"id": 1}])


async def test_a_slow_function_does_not_stop_the_rest():
    """It runs in a thread of its own, so that leases are renewed meanwhile."""
    beats = 0

    async def heart() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    beating = asyncio.create_task(heart())
    await step("sleepy", None)([{"id": 1}])
    beating.cancel()

    assert beats > 3
    assert threading.current_thread() is threading.main_thread()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module_at_all:f", "ModuleNotFoundError"),
        (f"{HOOKS}:no_such_function", "no_such_function"),
        (f"{HOOKS}:not_a_function", "Decimal, not a function"),
        (f"{HOOKS}:Namespace.lower", "lower"),
    ],
)
def test_what_cannot_be_loaded(path: str, message: str):
    """Found before the first row is read, with the remedy."""
    with pytest.raises(InvalidStep, match=message):
        Python(path, COLUMNS, dataset="records")
