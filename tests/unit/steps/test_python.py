"""`python` calls a function of the user's own, and trusts nothing that it returns."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from msgspec import Raw
from pydantic import TypeAdapter

from pipeline_processing.errors import InvalidStep, StepAddedRows, StepFailed, Throttled
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.ports import Row, Rows
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Column, Columns, Kind
from pipeline_processing.rows.lazy_row import LazyRow
from pipeline_processing.steps.python import PLUGIN, DictsOptions, Python, PythonOptions
from pipeline_processing.steps.step import Batch
from tests.unit.steps import hooks
from tests.unit.steps.step_context import CollectedErrors, batch, context

HOOKS = "tests.unit.steps.hooks"
COLUMNS = Columns((Column("id"), Column("amount", natural=Decimal)))
FAILING = CollectedErrors(tolerant=False)


WAYS = {"lazy": (False, True), "dicts": (True, True), "not last": (False, False)}
"""How rows are handed over: whether the function takes dicts, and whether the step is the last one."""
way = WAYS["lazy"]
each_way = pytest.mark.usefixtures("set_way")


@pytest.fixture(params=WAYS)
def set_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.way", WAYS[request.param])


def step(
    function: str, columns: Columns = COLUMNS, *, carry: str = "json", errors: CollectedErrors = FAILING
) -> Python:
    dicts, last = way
    path = f"{HOOKS}:{function}"
    where = replace(context(columns, carry=carry, row_errors=errors), last=last)
    return Python(DictsOptions(function=path, takes="dicts") if dicts else path, where)


async def called(function: str, *rows: Row, columns: Columns = COLUMNS, errors: CollectedErrors = FAILING) -> Batch:
    async with step(function, columns, errors=errors) as python:
        return await python(batch(*rows))


async def results(function: str, *rows: Row, columns: Columns = COLUMNS) -> Rows:
    return (await called(function, *rows, columns=columns)).rows


def ids(*numbers: int) -> Rows:
    return [{"id": number} for number in numbers]


# -- what the function gets and gives ------------------------------------------------------------


@each_way
async def test_the_function_sees_natural_values():
    """Carried values are turned into Python's; null stays None."""
    rows: Rows = [{"id": 1, "amount": "1.50"}, {"id": 2, "amount": None}]

    await results("watch", *rows)

    assert hooks.seen == [{"id": 1, "amount": Decimal("1.50")}, {"id": 2, "amount": None}]
    assert rows[0]["amount"] == "1.50"


@pytest.mark.parametrize(("options", "kind"), [({"takes": "dicts"}, dict), (None, LazyRow)])
async def test_rows_are_plain_dicts_if_wanted(options: Any, kind: type):
    """As the job config says. Others convert a value when it is read."""
    path = f"{HOOKS}:watch"
    given = TypeAdapter(PLUGIN.options).validate_python({"function": path, **options} if options else path)

    async with PLUGIN.build(given, replace(context(COLUMNS, row_errors=FAILING), last=True)) as python:
        await python(batch({"id": 1, "amount": "1.50"}))

    assert [type(row) for row in hooks.seen] == [kind]


@each_way
async def test_plain_and_async_functions():
    """Both are called with the whole batch; callable objects and attributes are functions, too."""
    assert await results("double", {"id": 1, "amount": "1.50"}) == [{"id": 1, "amount": Decimal("3.00")}]
    assert await results("decorated_async", {"id": 1, "amount": "2"}) == [{"id": 1, "amount": Decimal(4)}]
    assert await results("Namespace.upper", {"id": 1, "amount": None, "name": "a"}) == [
        {"id": 1, "amount": None, "name": "A"}
    ]
    assert await results("an_object", {"id": 1}, columns=UNKNOWN_COLUMNS) == [{"id": 1}]
    assert await results("an_async_object", {"id": 1}, columns=UNKNOWN_COLUMNS) == [{"id": 1}]


@each_way
async def test_rows_that_are_left_out_count_as_filtered():
    """Over all batches."""
    async with step("drop_odd") as python:
        assert (await python(batch(*ids(1, 2, 3)))).rows == ids(2)
        assert (await python(batch({"id": 1}, first=4))).rows == []

    assert python.filtered == 3


def test_what_leaves_it_is_unknown():
    """Columns and values: the formats look at each."""
    python = step("drop_odd")

    assert python.columns == UNKNOWN_COLUMNS
    assert python.foreign


@each_way
@pytest.mark.parametrize("function", ["add_rows", "add_one"])
async def test_rows_cannot_be_added(function: str):
    """One more than it got is one too many."""
    with pytest.raises(StepAddedRows, match=r"got 2 rows and returned") as raised:
        await called(function, *ids(1, 2))

    assert raised.value.kind == "step_added_rows"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "NoneType"),
        ("generator", "generator"),
        ("no_dicts", "int"),
        ("same_twice", "the same dict twice"),
        ("fail", "LookupError: no such street"),
        ("exiting", "SystemExit: enough"),
        ("exiting_async", "SystemExit: enough"),
        ("exiting_in_a_task", "SystemExit: enough"),
        ("interrupting", "KeyboardInterrupt"),
        ("interrupting_async", "KeyboardInterrupt"),
        ("cancelling_async", "CancelledError"),
        ("worst", "raised Worst"),
        ("stopping", "StopIteration: no more"),
        ("unspeakable", "raised Unspeakable"),
    ],
)
async def test_what_is_not_rows_is_the_steps_fault(function: str, message: str):
    """The error names dataset, step, place, cause and remedy."""
    with pytest.raises(StepFailed, match=message) as raised:
        await called(function, *ids(1, 2))

    place = f"Dataset 'records', step 'python: {HOOKS}:{function}', rows 1 to 2: r"
    assert str(raised.value).startswith(place)


async def test_the_services_own_errors_pass():
    """A function may say itself that trying again helps, also where rows may be rejected."""
    for errors in (FAILING, CollectedErrors()):
        with pytest.raises(Throttled):
            await called("throttled", *ids(1, 2), errors=errors)


@pytest.mark.parametrize("dicts", [False, True])
async def test_the_last_step_puts_back_what_was_left_alone(monkeypatch: pytest.MonkeyPatch, dicts: bool):
    """As carried, in rows of its own: the function may keep those that it returned."""
    monkeypatch.setattr(f"{__name__}.way", (dicts, True))
    document, changed = Raw(b'{"a": 1.0}'), Raw(b'{"seen": 0}')
    rows: Rows = [{"id": 2, "doc": document, "twin": changed}]
    kinds = (column_of_kind(name, Kind.JSON, "json") for name in ("doc", "twin"))

    after = await called("keep_and_see_twin", *rows, columns=Columns((Column("id"), *kinds)))

    assert after.rows == [{"id": 2, "doc": document, "twin": {"seen": 1}}]
    assert hooks.seen == [{"id": 2, "doc": {"a": Decimal("1.0")}, "twin": {"seen": 1}}]


@pytest.mark.parametrize("dicts", [False, True])
@pytest.mark.parametrize(
    ("carry", "carried"),
    [("json", Raw(b'{"a": 1, "a": 1e400}')), ("json", Raw(b"[-0, 1.0]")), ("text", ' [1,\r\n{"b": 2}] ')],
)
@pytest.mark.parametrize("late", [False, True])
async def test_a_copied_document_is_put_back_as_carried(
    monkeypatch: pytest.MonkeyPatch, carry: str, carried: Any, late: bool, dicts: bool
):
    """Also in a new column. A copy that was changed is not, and what happens to the original doesn't matter."""

    def copy(rows: Rows) -> Rows:
        copied = deepcopy(rows)
        for row, original in zip(copied, rows, strict=True):
            row["changed"][0] = 2
            row |= {"new": deepcopy(row["doc"]), "empty": []}
            if late:
                original["doc"].clear()
        return copied

    monkeypatch.setattr(hooks, "given_by_test", copy, raising=False)
    monkeypatch.setattr(f"{__name__}.way", (dicts, True))
    columns = Columns(tuple(column_of_kind(name, Kind.JSON, carry) for name in ("doc", "changed")))
    one = "[1]" if carry == "text" else Raw(b"[1]")

    async with step("given_by_test", columns, carry=carry) as python:
        after = await python(batch({"doc": carried, "changed": one}))

    assert after.rows == [{"doc": carried, "changed": [2], "new": carried, "empty": []}]


async def test_rows_that_are_lazy_copies_are_written_as_dicts(monkeypatch: pytest.MonkeyPatch):
    """Also where it is unknown which rows they are."""
    monkeypatch.setattr(hooks, "given_by_test", lambda rows: [row.copy() for row in rows[1:]], raising=False)
    rows: Rows = [{"id": number, "amount": "1.0"} for number in (1, 2)]

    left = await results("given_by_test", *rows)

    assert left == rows[1:]
    assert type(left[0]) is dict


async def test_values_taken_past_the_methods_of_a_row_are_refused(monkeypatch: pytest.MonkeyPatch):
    """As C code may; also where it is unknown which rows were returned. The error says what helps."""
    for first in (0, 1):
        monkeypatch.setattr(
            hooks,
            "given_by_test",
            lambda rows, first=first: [dict(zip(row, dict.values(row), strict=True)) for row in rows[first:]],
            raising=False,
        )
        with pytest.raises(StepFailed, match=r"returned a value that it never got: .*`takes: dicts`"):
            await called("given_by_test", {"id": 1, "amount": "1"}, {"id": 2, "amount": "1"})


class SomeRows(list[Any]):
    """A function's own kind of list."""


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("make", [SomeRows, lambda rows: list(map(OrderedDict, rows))], ids=["list", "dict"])
@pytest.mark.parametrize("options", [{}, {"reads": ("id", "doc")}], ids=["all", "declared"])
async def test_rows_of_subclasses(monkeypatch: pytest.MonkeyPatch, options: Mapping[str, Any], make: Any, last: bool):
    """Of list or dict, from the function or the step before."""
    monkeypatch.setattr(hooks, "given_by_test", lambda rows: make(rows), raising=False)
    path = f"{HOOKS}:given_by_test"
    columns = Columns((Column("id", typed=True), column_of_kind("doc", Kind.JSON, "json")))
    where = replace(context(columns, row_errors=FAILING), last=last)
    row = {"id": 1, "doc": Raw(b'{"a": 1}')}
    left = row if last or options else {"id": 1, "doc": {"a": 1}}

    async with Python(PythonOptions(function=path, **options) if options else path, where) as python:
        assert (await python(batch(row))).rows == [left]
        assert (await python(Batch.read(make([row]), first=1))).rows == [left]


# -- which rows come back ------------------------------------------------------------------------


@each_way
@pytest.mark.parametrize(
    ("function", "numbers"),
    [
        ("watch", [11, 12, 13]),
        ("drop_odd", [12]),
        ("reverse", [13, 12, 11]),
        ("copies", [11, 12, 13]),
        ("fewer_copies", None),
    ],
)
async def test_rows_keep_their_numbers_where_that_can_be_told(function: str, numbers: list[int] | None):
    """The dicts that it got tell which rows they are, in any order; else as many as came are taken as in order."""
    async with step(function) as python:
        after = await python(batch(*ids(1, 2, 3), first=11))

    assert (None if after.numbers is None else list(after.numbers)) == numbers
    assert after.span == (11, 13)


@each_way
async def test_a_known_row_at_anothers_place_is_not_taken_as_in_order():
    """Which row the new dict is can't be told then."""
    assert (await called("swapped_and_new", *ids(1, 2))).numbers is None


async def test_numbers_that_are_lost_stay_lost():
    """An earlier step may have lost them."""
    async with step("watch") as python:
        assert (await python(Batch(ids(1), None, (1, 5)))).numbers is None


@each_way
@pytest.mark.parametrize("function", ["fewer_copies", "swapped_and_new"])
async def test_rows_must_be_told_apart_where_some_may_be_rejected(function: str):
    """A quarantine has to name them; the error says how."""
    with pytest.raises(StepFailed, match="return the dicts that the function got"):
        await called(function, *ids(1, 2), errors=CollectedErrors())


# -- row errors ----------------------------------------------------------------------------------

DOCUMENTS = Columns((column_of_kind("id", Kind.INTEGER, "json"), column_of_kind("doc", Kind.JSON, "json")))


@each_way
@pytest.mark.parametrize("function", ["fail_on_odd", "fail_on_odd_async"])
@pytest.mark.parametrize("foreign", [False, True])
async def test_rows_for_which_it_raises_are_rejected(function: str, foreign: bool):
    """It is called again with each row as it first was; what it leaves out then is filtered."""
    errors = CollectedErrors()
    columns = UNKNOWN_COLUMNS if foreign else DOCUMENTS
    rows: Rows = [{"id": number, "doc": {} if foreign else Raw("{}")} for number in (2, 3, 4, 5, 6)]

    async with step(function, columns, errors=errors) as python:
        after = await python(batch(*rows, first=11))

    assert after.rows == [{"id": number, "doc": {"seen": True}, "seen": True} for number in (2, 6)]
    assert list(after.numbers or ()) == [11, 15]
    name = f"python: {HOOKS}:{function}"
    assert errors.rejected == [(12, "ValueError: odd: 3", name), (14, "ValueError: odd: 5", name)]
    assert python.filtered == 1
    assert all("seen" not in row and row["doc"] in ({}, Raw("{}")) for row in rows)


async def test_without_tolerance_the_first_fault_ends_the_dataset():
    """Nothing is called twice."""
    with pytest.raises(StepFailed, match="ValueError: odd: 3"):
        await called("fail_on_odd", *({"id": number, "doc": {}} for number in (2, 3)), columns=UNKNOWN_COLUMNS)


@pytest.mark.parametrize("function", ["exiting", "exiting_async", "interrupting", "exiting_on_odd"])
async def test_code_that_would_end_the_process_rejects_no_rows(function: str):
    """Nobody says by that what is wrong with a row."""
    errors = CollectedErrors()
    with pytest.raises(StepFailed, match=r"raised (SystemExit: enough|KeyboardInterrupt)"):
        await called(function, *ids(2, 3), errors=errors)
    assert errors.rejected == []


async def test_a_single_row_is_not_tried_twice():
    """What it raised the first time is the reason; a long one is shortened."""
    errors = CollectedErrors()

    after = await called("long_winded", {"id": 1}, errors=errors)

    assert after.rows == []
    [(number, reason, _)] = errors.rejected
    assert (number, reason) == (1, "ValueError: " + "x" * 500 + "…")


@each_way
async def test_rows_cannot_be_added_one_by_one_either():
    """One row in, two rows out."""
    with pytest.raises(StepAddedRows, match="got 1 rows and returned 2"):
        await called("fail_where_two", *ids(1, 2), errors=CollectedErrors())


# -- threads -------------------------------------------------------------------------------------


async def test_a_plain_function_has_a_thread_of_its_own():
    """Always the same one, so that it may keep what belongs to a thread; no other step's."""
    hooks.threads.clear()
    async with step("note_thread") as one, step("note_thread") as other:
        for python in (one, one, other):
            await python(batch({"id": 1}))

    first, again, others = hooks.threads
    assert first is again
    assert len({first, others, threading.current_thread()}) == 3


async def test_a_slow_function_does_not_stop_the_rest():
    """It runs in a thread of its own, so that leases are renewed meanwhile."""
    beats = 0

    async def heart() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    beating = asyncio.create_task(heart())
    await called("sleepy", {"id": 1})
    beating.cancel()

    assert beats > 3


@pytest.mark.parametrize("function", ["hang", "computing"])
async def test_a_hanging_function_can_be_left(function: str):
    """At once, by a timeout or by the end of the run; what it returns later is dropped."""
    for event in (hooks.hanging, hooks.may_go_on, hooks.ended):
        event.clear()
    async with step(function) as python:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await python(batch({"id": 1}))
    assert hooks.hanging.is_set()
    assert not hooks.ended.is_set()

    hooks.may_go_on.set()
    assert await asyncio.to_thread(hooks.ended.wait, 10)


# -- what it opens -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "events"),
    [
        ("Opened", ["made", "opened", "called", "called", "closed well"]),
        ("opened", ["opened", "called", "called", "closed"]),
    ],
)
async def test_what_it_needs_is_open_for_the_length_of_a_dataset(path: str, events: list[str]):
    """A class, or a function that makes a context; nothing is opened before the dataset."""
    hooks.events.clear()
    python = step(path)
    assert hooks.events == []

    async with python:
        await python(batch({"id": 1}))
        await python(batch({"id": 1}, first=2))

    assert hooks.events == events


async def test_it_is_opened_called_and_closed_in_one_task():
    """Cancel scopes, of a timeout or a TaskGroup, belong to a task."""
    hooks.in_one_task.clear()
    async with step("one_task") as python:
        await python(batch({"id": 1}))

    assert len(hooks.in_one_task) == 3
    assert len(set(hooks.in_one_task)) == 1


async def test_a_plain_function_sees_what_was_set_when_it_was_opened():
    """Though it runs in another thread."""
    assert await results("SetsVariable", {"id": 1}, columns=UNKNOWN_COLUMNS) == [{"id": 1, "variable": "set"}]


async def test_what_it_has_opened_may_end_by_itself():
    """That fails the step, at its next call or at its end."""

    async def two_batches() -> None:
        async with step("exiting_between") as python:
            await python(batch({"id": 1}))
            await python(batch({"id": 2}))

    with pytest.raises(StepFailed, match="SystemExit: enough"):
        await two_batches()


@pytest.mark.parametrize(("path", "last"), [("Opened", "closed LookupError"), ("opened", "closed")])
async def test_it_is_closed_when_the_dataset_fails(path: str, last: str):
    """It learns why, and can't hide it."""
    hooks.events.clear()
    with pytest.raises(LookupError):
        async with step(path):
            raise LookupError

    assert hooks.events[-1] == last


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("Unopenable", StepFailed, "raised OSError: no such server when it was opened"),
        ("Throttling", Throttled, "patience"),
        ("ExitingWhenMade", StepFailed, "raised SystemExit: enough when it was opened"),
        ("ExitingWhenOpened", StepFailed, "raised SystemExit: enough when it was opened"),
        ("InterruptingWhenClosed", StepFailed, "raised KeyboardInterrupt when it was closed"),
        ("opened_badly", InvalidStep, "gave a int"),
        ("Unclosable", StepFailed, "raised OSError: broken pipe when it was closed"),
    ],
)
async def test_what_cannot_be_opened_or_closed(path: str, error: type[Exception], message: str):
    """The message says which of the two it was."""
    with pytest.raises(error, match=message):
        async with step(path):
            pass


async def test_trouble_in_closing_does_not_hide_what_went_wrong():
    """The first error is the one to mend."""
    with pytest.raises(LookupError, match="first"):
        async with step("Unclosable"):
            raise LookupError("first")


# -- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module_at_all:f", "ModuleNotFoundError"),
        ("tests.unit.steps.exits_at_import:f", "SystemExit: enough"),
        ("tests.unit.steps.interrupts_at_import:f", "KeyboardInterrupt"),
        (f"{HOOKS}:no_such_function", "no_such_function"),
        (f"{HOOKS}:not_a_function", "Decimal, not a function"),
        (f"{HOOKS}:Namespace.lower", "lower"),
        (f"{HOOKS}:NeverOpened", "a class without `__aenter__`"),
        (f"{HOOKS}:open_already", "name its class"),
        (f"{HOOKS}:async_generator", "an async generator"),
    ],
)
def test_what_cannot_be_called(path: str, message: str):
    """Found before the first row is read, with the remedy."""
    arguments: dict[str, Any] = {"row_errors": FAILING}
    with pytest.raises(InvalidStep, match=message):
        Python(path, context(COLUMNS, **arguments))
