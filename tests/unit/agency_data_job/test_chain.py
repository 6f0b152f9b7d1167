"""A dataset's steps together: bound to columns before the first row, run in order, and folded where they can be."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.agency_data_job.chain import Chain
from pipeline_processing.errors import (
    InvalidStep,
    PipelineError,
    SourceUnavailable,
    StepAddedRows,
    StepFailed,
    Throttled,
    UnknownColumn,
)
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import Rows
from pipeline_processing.rows.columns import Column, Columns, Kind
from pipeline_processing.rows.lazy_row import LazyRow
from pipeline_processing.rows.values import PLAIN_NUMBER, PLAIN_TEXT
from pipeline_processing.steps.step import Batch, Step, StepContext
from tests.unit.agency_data_job.chains import Make, open_chain
from tests.unit.agency_data_job.chains import run as run_chain
from tests.unit.plugged import installed
from tests.unit.plugged import step as step_entry
from tests.unit.steps import hooks
from tests.unit.virtual_clock import in_virtual_time

COLUMNS = Columns(
    (
        Column("id", comparison=PLAIN_NUMBER, kind=Kind.INTEGER, origins=frozenset({"id"}), unchanged=True),
        Column("name", comparison=PLAIN_TEXT, kind=Kind.TEXT, origins=frozenset({"name"}), unchanged=True),
        Column("extra", origins=frozenset({"extra"}), unchanged=True),
    )
)
RECORDS = [(1, "a", None), (2, "b", "x"), (3, None, "y")]
HOOKS = "tests.unit.steps.hooks"


class Watching(Step):
    """Tells what happens to it, and does with each batch what it was told."""

    def __init__(
        self,
        context: StepContext,
        *,
        name: str = "watching",
        does: Callable[[Batch], Any] = lambda batch: batch,
        told: list[str] | None = None,
        fails_to_open: BaseException | None = None,
        fails_to_close: BaseException | None = None,
    ) -> None:
        self.name = name
        self.columns = context.columns
        self.context = context
        self.batches: list[Batch] = []
        self._does = does
        self._told = [] if told is None else told
        self._fails_to_open = fails_to_open
        self._fails_to_close = fails_to_close

    async def __aenter__(self) -> Watching:
        if self._fails_to_open is not None:
            raise self._fails_to_open
        self._told.append(f"open {self.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._told.append(f"close {self.name}")
        if self._fails_to_close is not None:
            raise self._fails_to_close

    async def __call__(self, batch: Batch) -> Batch:
        self.batches.append(batch)
        made = self._does(batch)
        if asyncio.iscoroutine(made):
            made = await made
        return made  # type: ignore[no-any-return]  # some do wrong on purpose


def rejecting(*ids: int, reason: str = "not wanted") -> Make:
    """A step that can't use the rows with these ids."""

    def made(context: StepContext) -> Step:
        def does(batch: Batch) -> Batch:
            faults = {at: reason for at, row in enumerate(batch.rows) if row["id"] in ids}
            return context.row_errors.reject(batch, faults, step="rejecting")

        return Watching(context, name="rejecting", does=does)

    return made


def chain(*steps: Mapping[str, Any], columns: Columns = COLUMNS, **options: Any) -> AbstractAsyncContextManager[Chain]:
    """The chain of these steps."""
    return open_chain(*steps, columns=columns, **options)


async def run(opened: Chain, records: Sequence[Sequence[Any]] = RECORDS) -> Rows:
    """One batch of the source through all steps."""
    return await run_chain(opened, records)


def shown(opened: Chain) -> list[Mapping[str, Any]]:
    """The rows rejected since the last call."""
    return [row for _, row in opened.rejected()]


# -- in order ------------------------------------------------------------------------------------


async def test_no_steps():
    """Rows pass, nothing has to touch them."""
    async with chain(format="csv") as opened:
        assert await run(opened) == RECORDS
        assert opened.columns == COLUMNS
        assert opened.names == ("id", "name", "extra")
        assert opened.format.head() == b"id,name,extra\n"


async def test_each_step_sees_what_the_one_before_it_made():
    """Names, constants and dropped rows go from step to step; counts add up."""
    async with chain(
        {"rename": {"name": "label"}},
        {"add": {"run": "{run_id}"}},
        {"filter": "label IS NOT NULL AND run = 'r-1'"},
        {"select": ["run", "id", "label"]},
        {"filter": "id > 1"},
    ) as opened:
        assert await run(opened) == [{"run": "r-1", "id": 2, "label": "b"}]
        assert opened.columns.names == ("run", "id", "label")
        assert opened._tally.filtered == 2
        assert opened.names == ("run", "id", "label")


async def test_after_a_python_step_the_rows_tell():
    """Columns aren't known beforehand any more; steps behind it still work. Without rows the last ones known count."""
    steps: list[Any] = [{"select": ["id", "name"]}, {"python": f"{HOOKS}:drop_odd"}, {"rename": {"id": "key"}}]
    async with chain(*steps, format="csv") as opened:
        assert opened.format.head() == b"id,name\n"
        assert await run(opened) == [{"key": 2, "name": "b"}]
        assert opened.names is None
        assert not opened.columns.complete
        assert opened._tally.filtered == 2


@pytest.mark.parametrize(
    ("behind", "kind"),
    [
        ({}, LazyRow),
        ({"expect": {"not_null": ["id"]}}, LazyRow),
        ({"expect": {"unique": ["id"]}}, dict),
        ({"steps": [{"drop": ["extra"]}]}, dict),
    ],
)
async def test_a_function_that_is_the_last_to_change_rows_gets_lazy_ones(behind: dict[str, Any], kind: type):
    """A check for nulls may follow."""
    steps = [{"python": f"{HOOKS}:watch"}, *behind.get("steps", ())]

    async with chain(*steps, **{name: value for name, value in behind.items() if name != "steps"}) as opened:
        await run(opened)

    assert {type(row) for row in hooks.seen} == {kind}


async def test_an_empty_batch_is_not_passed_on():
    """Steps behind one that dropped everything aren't called."""
    async with chain({"filter": "false"}, {"python": f"{HOOKS}:fail"}) as opened:
        assert await run(opened) == []


async def test_checks_come_last():
    """They see the rows as they leave the steps, and so what is written."""
    seen: list[Watching] = []

    def check(context: StepContext) -> Step:
        seen.append(Watching(context))
        return seen[-1]

    async with chain({"rename": {"id": "key"}}, {"filter": "key = 2"}, behind=[check]) as opened:
        await run(opened)

    (watching,) = seen
    assert watching.context.columns.names == ("key", "name", "extra")
    assert [batch.rows for batch in watching.batches] == [[{"key": 2, "name": "b", "extra": "x"}]]


# -- before the first row ------------------------------------------------------------------------

FAULTS: list[tuple[list[dict[str, Any]], type[PipelineError], int]] = [
    ([{"select": ["id"]}, {"filter": "name = 'a'"}], UnknownColumn, 2),
    ([{"rename": {"id": "key"}}, {"select": ["id"]}], UnknownColumn, 2),
    ([{"drop": ["name"]}, {"mask": {"columns": ["name"], "using": "redact"}}], UnknownColumn, 2),
    ([{"add": {"id": 1}}], InvalidStep, 1),
    ([{"add": {"x": 1}}, {"add": {"x": 2}}], InvalidStep, 2),
    ([{"filter": "id ="}], InvalidStep, 1),
    ([{"python": "nowhere:f"}], InvalidStep, 1),
]


@pytest.mark.parametrize(("steps", "error", "number"), FAULTS)
async def test_faults_show_before_the_first_row(steps: list[dict[str, Any]], error: type[PipelineError], number: int):
    """Binding is enough to find them; the message says where they are, once."""
    with pytest.raises(error) as raised:
        async with chain(*steps):
            raise AssertionError("nothing was found")

    assert str(raised.value).startswith(f"Dataset 'records', step {number}: ")
    assert str(raised.value).count("Dataset 'records'") == 1


# -- opened and closed ---------------------------------------------------------------------------


def watched(told: list[str], *names: str, **options: Any) -> list[Callable[[StepContext], Step]]:
    return [lambda context, name=name: Watching(context, name=name, told=told, **options) for name in names]


async def test_steps_are_opened_in_order_and_closed():
    """The other way round, after the last row."""
    told: list[str] = []
    async with chain(behind=watched(told, "a", "b")) as opened:
        assert told == ["open a", "open b"]
        await run(opened)

    assert told == ["open a", "open b", "close b", "close a"]


async def test_steps_are_closed_when_the_dataset_fails():
    """Wherever that was."""
    told: list[str] = []

    async def failing() -> None:
        async with chain(behind=watched(told, "a")):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await failing()
    assert told == ["open a", "close a"]


async def test_a_step_that_cannot_be_opened():
    """The error says which it is and keeps its kind, and those before it are closed."""
    told: list[str] = []
    down = SourceUnavailable("the lookup's server is down")
    checks = [*watched(told, "a"), *watched(told, "b", fails_to_open=down)]

    with pytest.raises(SourceUnavailable, match=r"^Dataset 'records': the lookup's server is down$"):
        async with chain(behind=checks):
            raise AssertionError("it was opened")

    assert told == ["open a", "close a"]


# -- rows and their numbers ----------------------------------------------------------------------


async def test_rows_keep_their_numbers_behind_filters():
    """From 1, over all batches, whatever was dropped before."""
    seen: list[Watching] = []

    def check(context: StepContext) -> Step:
        seen.append(Watching(context))
        return seen[-1]

    async with chain({"filter": "id <> 2"}, {"filter": "id <> 5"}, behind=[check]) as opened:
        for first in (1, 4, 7):
            await run(opened, [(first + at, None, None) for at in range(3)])

    numbers = [(list(batch.numbers or ()), [row["id"] for row in batch.rows], batch.span) for batch in seen[0].batches]
    assert numbers == [([1, 3], [1, 3], (1, 3)), ([4, 6], [4, 6], (4, 6)), ([7, 8, 9], [7, 8, 9], (7, 9))]


async def test_rejected_rows_are_found_as_they_were_read():
    """By their numbers, whatever the steps made of them before."""
    steps: list[Any] = [{"filter": "id <> 4"}, {"python": f"{HOOKS}:watch"}]
    async with chain(*steps, behind=[rejecting(5, 6)], on_row_error="quarantine") as opened:
        assert [row["id"] for row in await run(opened)] == [1, 2, 3]
        assert opened.rejected() == []

        rows = await run(opened, [(number, f"n{number}", None) for number in (4, 5, 6, 7)])

        assert [row["id"] for row in rows] == [7]
        assert [(each.number, each.step, each.reason, row) for each, row in opened.rejected()] == [
            (5, "rejecting", "not wanted", {"id": 5, "name": "n5", "extra": None}),
            (6, "rejecting", "not wanted", {"id": 6, "name": "n6", "extra": None}),
        ]
        assert opened.rejected() == []
        assert (opened._tally.filtered, opened._tally.rejected) == (1, 2)


async def test_rejected_rows_are_found_in_any_piece():
    """Also behind a step of another package that made a batch of its own."""
    records = [(number, f"n{number}", None) for number in range(1, 100)]
    with step_of(lambda batch: Batch(batch.rows, batch.numbers, batch.span)):
        async with chain({"acme.step": None}, behind=[rejecting(3, 50, 99)], on_row_error="quarantine") as opened:
            assert len(await run(opened, records)) == 96
            assert [row["name"] for row in shown(opened)] == ["n3", "n50", "n99"]


async def test_rows_are_found_behind_folded_steps():
    """They are shown with all columns of the source, under the source's names."""

    def check(context: StepContext) -> Step:
        return Watching(context, does=lambda batch: context.row_errors.reject(batch, {1: "no"}, step="s"))

    steps: list[Any] = [{"select": ["name", "id"]}, {"rename": {"id": "key"}}]
    async with chain(*steps, behind=[check], on_row_error="quarantine") as opened:
        await run(opened)
        assert shown(opened) == [{"id": 2, "name": "b", "extra": "x"}]


async def test_masked_columns_of_rejected_rows_are_masked():
    """Also under another name, and where the row was rejected before it came to the mask."""
    async with chain(
        {"filter": "id > 0"},
        {"rename": {"name": "label"}},
        {"mask": {"columns": ["label"], "using": "redact", "with": "?"}},
        behind=[rejecting(2, 3)],
        on_row_error="quarantine",
    ) as opened:
        await run(opened)
        assert shown(opened) == [{"id": 2, "name": "?", "extra": "x"}, {"id": 3, "name": None, "extra": "y"}]


async def test_masked_columns_of_any_source_are_masked():
    """Also if the source, of another package say, doesn't tell where its columns come from: from itself."""
    plain = Columns(tuple(replace(column, origins=frozenset(), unchanged=False) for column in COLUMNS))
    async with chain(
        {"rename": {"name": "label"}},
        {"mask": {"columns": ["label"], "using": "redact", "with": "?"}},
        behind=[rejecting(2)],
        on_row_error="quarantine",
        columns=plain,
    ) as opened:
        await run(opened)
        assert [row["name"] for row in shown(opened)] == ["?"]


@pytest.mark.parametrize(
    ("masked", "visible"),
    [("made", {"id": "***", "name": "***", "extra": "***"}), ("by", {"id": 2, "name": "b", "extra": "x"})],
)
async def test_a_column_of_another_packages_step_may_hold_anything(masked: str, visible: Mapping[str, Any]):
    """If it is masked and doesn't say what it comes from, nothing of the row is shown; a constant stays a constant."""
    with step_of(lambda batch: batch.changed([row | {"made": row["name"]} for row in batch.rows]), adds=["made"]):
        async with chain(
            {"add": {"by": "us"}},
            {"acme.step": None},
            {"mask": {"columns": [masked], "using": "redact"}},
            behind=[rejecting(2)],
            on_row_error="quarantine",
        ) as opened:
            await run(opened)
            assert shown(opened) == [visible]


# -- what goes wrong -----------------------------------------------------------------------------


@contextmanager
def step_of(does: Callable[[Batch], Any], *, adds: Sequence[str] = (), **fails: BaseException) -> Iterator[None]:
    """For the length of the block `acme.step` does that, and says that it adds these columns."""

    def build(options: Any, context: StepContext) -> Step:
        step = Watching(context, name="acme.step", does=does, **fails)
        step.columns = context.columns.plus([Column(name, kind=Kind.TEXT) for name in adds], step=step.name)
        return step

    with plugged(build):
        yield


@contextmanager
def plugged(build: Callable[..., Step]) -> Iterator[None]:
    """For the length of the block `acme.step` is what this builds."""
    plugin = Plugin(options=Any, build=build)
    with pytest.MonkeyPatch.context() as patch, installed(step_entry("acme.step", f"{__name__}:PLUGIN")):
        patch.setattr(sys.modules[__name__], "PLUGIN", plugin)
        yield


PLUGIN: Plugin | None = None


def raising(error: BaseException) -> Callable[[Batch], Any]:
    def does(batch: Batch) -> Any:
        raise error

    return does


async def forever(batch: Batch) -> Batch:
    await asyncio.Event().wait()
    return batch


@in_virtual_time
async def test_a_step_that_takes_too_long() -> None:
    """Its `timeout` is for each batch; the message says which dataset, step and rows, and what to do."""
    with step_of(lambda batch: batch if batch.span[0] == 1 else forever(batch)):
        async with chain({"filter": "id > 0"}, {"acme.step": None, "timeout": "30s"}) as opened:
            await run(opened)
            began = asyncio.get_running_loop().time()
            with pytest.raises(StepFailed) as raised:
                await run(opened, [(4, None, None), (5, None, None)])

    assert asyncio.get_running_loop().time() - began == 30
    assert str(raised.value).startswith(
        "Dataset 'records', step 2 (acme.step), rows 4 to 5: didn't end within its `timeout` of 30 s. Find out"
    )
    assert raised.value.exit_code == 1


@in_virtual_time
async def test_a_step_within_its_timeout() -> None:
    """However many batches there are: each has the whole time."""

    async def slowly(batch: Batch) -> Batch:
        await asyncio.sleep(20)
        return batch

    with step_of(slowly):
        async with chain({"acme.step": None, "timeout": "30s"}) as opened:
            for _ in range(3):
                assert len(await run(opened)) == 3


@in_virtual_time
async def test_a_cancellation_is_no_timeout() -> None:
    """Whoever stops the worker isn't told of a step that failed."""
    with step_of(forever):
        async with chain({"acme.step": None, "timeout": "30s"}) as opened:
            running = asyncio.create_task(run(opened))
            await asyncio.sleep(1)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running


ENDING = [
    SystemExit("enough"),
    KeyboardInterrupt("enough"),
    GeneratorExit("enough"),
    asyncio.CancelledError("enough"),
    BaseException("enough"),
]
"""Errors that would end more than a step: the process, the event loop, or the task."""


@pytest.mark.parametrize(
    "error",
    [KeyError("street"), TimeoutError("of its own"), AssertionError("odd"), *ENDING],
    ids=lambda error: repr(error),
)
async def test_what_a_step_of_another_package_raises(error: BaseException):
    """It may be anything; the run's error says where, and has the cause."""
    with step_of(raising(error)):
        async with chain({"acme.step": None, "timeout": "30s"}) as opened:
            with pytest.raises(StepFailed) as raised:
                await run(opened)

    assert str(raised.value).startswith(
        f"Dataset 'records', step 1 (acme.step), rows 1 to 3: raised {type(error).__name__}: {error}. Correct the step"
    )
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyError("street"), *ENDING], ids=lambda error: repr(error))
@pytest.mark.parametrize("when", ["opened", "closed"])
async def test_what_a_step_of_another_package_raises_when_it_is_opened_or_closed(when: str, error: BaseException):
    """The step's failure, too; behind another error it is only logged."""
    fails = {"fails_to_open" if when == "opened" else "fails_to_close": error}
    with step_of(lambda batch: batch, **fails):
        with pytest.raises(StepFailed, match=f"acme.step raised {type(error).__name__}: .* when it was {when}"):
            async with chain({"acme.step": None}):
                pass
        with pytest.raises(StepFailed if when == "opened" else LookupError):
            async with chain({"acme.step": None}):
                raise LookupError


async def test_a_cancellation_passes_through_a_step_that_is_opened():
    """Somebody has asked for that one."""
    opening = asyncio.Event()

    class Hanging(Watching):
        async def __aenter__(self) -> Watching:
            opening.set()
            await asyncio.Event().wait()
            return self

    with plugged(lambda options, context: Hanging(context, name="acme.step")):
        task = asyncio.ensure_future(anext(chain_opened()))
        await opening.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def chain_opened() -> AsyncIterator[Chain]:
    async with chain({"acme.step": None}) as opened:
        yield opened


@pytest.mark.parametrize("error", ENDING, ids=lambda error: repr(error))
async def test_values_of_user_code_end_nothing_more_than_the_step_that_reads_them(error: BaseException):
    """What a step of ours reads may be an object of the user's, whose methods are user code as well."""
    async with chain({"filter": "id > 0"}, behind=watched([], "ours", does=raising(error))) as opened:
        with pytest.raises(StepFailed, match=type(error).__name__):
            await run(opened)


async def test_an_error_of_ours_is_a_bug():
    """It isn't blamed on the job config or the data."""
    check = watched([], "ours", does=raising(ZeroDivisionError("of ours")))
    async with chain(behind=check) as opened:
        with pytest.raises(ZeroDivisionError, match=r"^of ours$"):
            await run(opened)


@pytest.mark.parametrize("error", [Throttled("slow down"), StepFailed("no such street")])
async def test_known_errors_keep_their_kind_and_get_a_place(error: PipelineError):
    """Once, whoever raised them."""
    with step_of(raising(error)):
        async with chain({"filter": "id = 3"}, {"acme.step": None}) as opened:
            with pytest.raises(type(error)) as raised:
                await run(opened)

    assert raised.value is error
    assert str(error) in (
        "Dataset 'records', step 2 (acme.step), rows 1 to 3: slow down",
        "Dataset 'records', step 2 (acme.step), rows 1 to 3: no such street",
    )


async def test_an_error_that_has_a_place_keeps_it():
    """A step may know better than the chain."""
    with step_of(raising(StepFailed("no such street").at("Row 17"))):
        async with chain({"acme.step": None}) as opened:
            with pytest.raises(StepFailed, match=r"^Row 17: no such street$"):
                await run(opened)


async def test_the_first_row_that_fails_a_run_is_named():
    """By its number in the source, behind a filter."""
    async with chain({"filter": "id <> 1"}, behind=[rejecting(3)]) as opened:
        with pytest.raises(StepFailed, match=r"^Dataset 'records', step 'rejecting', row 3: not wanted\."):
            await run(opened)


async def test_a_step_of_another_package_that_adds_rows():
    """It is told as the one at fault, as a `python` step would be."""
    with step_of(lambda batch: Batch([*batch.rows, {"id": 0}], None, batch.span)):
        async with chain({"acme.step": None}) as opened:
            with pytest.raises(StepAddedRows, match=r"'acme.step' of dataset 'records' got 3 rows and returned 4"):
                await run(opened)


async def test_a_step_of_another_package_that_returns_no_batch():
    """Nor is that a bug of ours."""
    with step_of(lambda batch: batch.rows):
        async with chain({"acme.step": None}) as opened:
            with pytest.raises(StepFailed, match=r"step 1 \(acme.step\), rows 1 to 3: "):
                await run(opened)


@pytest.mark.parametrize("on_row_error", ["skip", "quarantine"])
async def test_rows_without_numbers_are_the_fault_of_who_lost_them(on_row_error: str):
    """A step of another package that drops rows without saying which: that is no bug here, nor a wrong number."""

    def dropping(batch: Batch) -> Batch:
        return Batch(batch.rows[1:], None, batch.span)

    with step_of(dropping):
        async with chain({"acme.step": None}, behind=[rejecting(3)], on_row_error=on_row_error) as opened:
            if on_row_error == "skip":
                assert [row["id"] for row in await run(opened)] == [2]
                return
            with pytest.raises(StepFailed, match="an earlier step of another package"):
                await run(opened)


# -- folding -------------------------------------------------------------------------------------

NAMES = st.sampled_from(["id", "name", "extra", "a", "b"])
FOLDABLE = st.lists(
    st.one_of(
        st.builds(lambda names: {"select": names}, st.lists(NAMES, min_size=1, max_size=4, unique=True)),
        st.builds(lambda names: {"drop": names}, st.lists(NAMES, min_size=1, max_size=2, unique=True)),
        st.builds(lambda names: {"rename": names}, st.dictionaries(NAMES, NAMES, min_size=1, max_size=3)),
        st.builds(
            lambda constants: {"add": constants}, st.dictionaries(NAMES, st.integers(0, 9), min_size=1, max_size=2)
        ),
        st.sampled_from([{"filter": "id > 1"}, {"filter": "name = 'b' OR a IS NULL"}, {"filter": "10 / (ID - 2) > 0"}]),
    ),
    max_size=6,
)


@given(steps=FOLDABLE)
async def test_folding_changes_nothing(steps: list[dict[str, Any]]):
    """
    Steps that are folded into the making of the rows, and filters on records, give the same rows and faults as steps on
    rows.
    """
    unfolded = ({"cast": {"id": "integer"}}, *steps)
    options = {"on_row_error": "quarantine"}
    try:
        async with chain(*steps, **options) as folded, chain(*unfolded, **options) as called:
            rows, expected = await run(folded), await run(called)
            assert len(rows) == len(expected)
            assert folded.rejected() == called.rejected()
            assert folded.columns == called.columns
            if rows:
                lines = folded.format.encode(rows)
                assert lines == called.format.encode(expected)
                assert folded.names == tuple(json.loads(lines.splitlines()[0]))
    except (InvalidStep, UnknownColumn) as error:
        with pytest.raises(type(error)):
            async with chain(*unfolded):
                pass


@pytest.mark.parametrize(
    ("steps", "touches_rows"),
    [
        ([{"select": ["name", "id"]}, {"rename": {"id": "key"}}, {"add": {"x": 1}}, {"drop": ["name"]}], False),
        ([{"filter": "id > 0"}, {"select": ["name"]}], False),
        ([{"select": ["id"]}, {"filter": "id > 0"}], False),
        ([{"add": {"x": 1}}, {"filter": "x > 0"}], True),
        ([{"cast": {"id": "text"}}, {"select": ["id"]}], True),
    ],
)
async def test_what_costs_nothing_a_row(steps: list[dict[str, Any]], touches_rows: bool):
    """Choosing, naming and adding columns, and dropping rows, as long as no other step comes before."""
    async with chain(*steps) as opened:
        assert isinstance((await run(opened))[0], dict) == touches_rows
