"""`enrich_table` on a table in memory. tests/contract/steps holds its keys and values against Postgres."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline_processing.errors import InvalidStep, StepFailed, UnknownColumn
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.ports import Rows
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Column, Columns, Kind
from pipeline_processing.steps.enrich_table import EnrichTable, EnrichTableOptions
from pipeline_processing.steps.step import Batch
from tests.unit.steps.step_context import CollectedErrors, batch, context

STATUSES: Rows = [
    {"code": "new", "label": "New", "rank": 1},
    {"code": "old", "label": None, "rank": 2},
    {"code": None, "label": "Nobody's", "rank": 3},
]
ID, STATUS = column_of_kind("id", Kind.INTEGER, "json"), column_of_kind("status", Kind.TEXT, "json", origins=["s"])
THERE = Columns(
    (
        column_of_kind("code", Kind.TEXT, "json"),
        column_of_kind("label", Kind.TEXT, "json"),
        column_of_kind("rank", Kind.INTEGER, "json"),
    )
)


@dataclass
class Table:
    """A lookup in memory, and the services that give it."""

    rows: Rows = field(default_factory=lambda: STATUSES)
    columns: Columns = THERE
    asked: list[Sequence[Any]] = field(default_factory=list)
    opened: list[tuple[str, str | None, str]] = field(default_factory=list)
    is_open: bool = False

    async def find(self, keys: Sequence[Any]) -> Rows:
        assert self.is_open
        assert None not in keys
        self.asked.append(keys)
        return [dict(row) for row in self.rows if row["code"] in keys or row["code"] is None]

    @asynccontextmanager
    async def lookup(self, query: str, *, secret: str | None, carry: str) -> AsyncIterator["Table"]:
        self.opened.append((query, secret, carry))
        self.is_open = True
        try:
            yield self
        finally:
            self.is_open = False


def options(**changes: Any) -> EnrichTableOptions:
    """The step as a job config has it."""
    written = {"query": "SELECT …", "on": "status", "key": "code", "add": {"status_label": "label"}} | changes
    return EnrichTableOptions.model_validate(written)


def enrich(table: Table, columns: Any = (ID, STATUS), errors: CollectedErrors | None = None, **changes: Any) -> Any:
    """The step, not open yet."""
    return EnrichTable(options(**changes), context(columns, services=table, row_errors=errors))  # type: ignore[arg-type]  # it looks up


def rows(*statuses: str | None) -> Batch:
    return batch(*({"id": number, "status": status} for number, status in enumerate(statuses, start=1)))


# -- rows ----------------------------------------------------------------------------------------


async def test_columns_are_added_behind_the_others():
    """Found values, and null where the record has null, where there is no record, and where the key is null."""
    async with enrich(Table(), add={"status_label": "label", "r": "rank"}) as step:
        done = await step(rows("new", "old", "gone", None))

    assert done.rows == [
        {"id": 1, "status": "new", "status_label": "New", "r": 1},
        {"id": 2, "status": "old", "status_label": None, "r": 2},
        {"id": 3, "status": "gone", "status_label": None, "r": None},
        {"id": 4, "status": None, "status_label": None, "r": None},
    ]
    assert step.filtered == 0


async def test_missing_rows_are_left_out():
    """With `drop` they count as filtered, and the others keep their numbers."""
    async with enrich(Table(), missing="drop") as step:
        done = await step(rows("gone", "new", None, "old"))
        assert [row["status"] for row in done.rows] == ["new", "old"]
        assert done.numbers == [2, 4]
        await step(rows("gone"))

    assert step.filtered == 3


async def test_missing_rows_are_row_errors():
    """With `fail` each is rejected with its reason, in which its key isn't told, and not counted as filtered."""
    errors = CollectedErrors()
    async with enrich(Table(), errors=errors, missing="fail") as step:
        done = await step(rows("gone", "new", None, "old"))

    assert [row["id"] for row in done.rows] == [2, 4]
    assert errors.rejected == [
        (1, "its 'status' is the key of no record, and `missing` is fail", "enrich_table: status"),
        (3, "its 'status' is null, and `missing` is fail", "enrich_table: status"),
    ]
    assert step.filtered == 0


async def test_a_row_error_fails_the_step_where_it_is_not_tolerated():
    """What becomes of such a row is the dataset's own to say."""
    async with enrich(Table(), errors=CollectedErrors(tolerant=False), missing="fail") as step:
        with pytest.raises(StepFailed, match="row 1"):
            await step(rows("gone"))


@given(
    statuses=st.lists(st.sampled_from(["new", "old", "gone", "away", None]), max_size=12),
    missing=st.sampled_from([None, "drop", "fail"]),
    cache_rows=st.integers(0, 3),
    size=st.integers(1, 5),
)
async def test_rows_are_accounted_for(statuses, missing, cache_rows, size):
    """However they come in batches and whatever is remembered: the same rows with the same values, none made up."""
    errors, done = CollectedErrors(), []
    async with enrich(Table(), errors=errors, missing=missing, cache_rows=cache_rows) as step:
        for start in range(0, len(statuses), size):
            done += (await step(rows(*statuses[start : start + size]))).rows

    labels = {row["code"]: row["label"] for row in STATUSES}
    there = [status for status in statuses if missing is None or status in ("new", "old")]
    assert [row["status"] for row in done] == there
    assert [row["status_label"] for row in done] == [labels.get(each) if each else None for each in there]
    assert len(done) + step.filtered + len(errors.rejected) == len(statuses)


async def test_keys_are_asked_for_once():
    """The distinct ones of a batch together, and those that are remembered, or known to be missing, not again."""
    table = Table()
    async with enrich(table) as step:
        await step(rows("new", "gone", "new", None))
        await step(rows("gone", None, "new"))
        await step(rows(None, None))
        await step(rows("old", "new"))

    assert table.asked == [["new", "gone"], ["old"]]


async def test_what_has_left_the_cache_is_asked_for_again():
    """`cache_rows` bounds what is remembered, not what one batch may have."""
    table = Table()
    async with enrich(table, cache_rows=1) as step:
        for _ in range(2):
            done = await step(rows("new", "old", "gone"))
            assert [row["status_label"] for row in done.rows] == ["New", None, None]

    assert table.asked == [["new", "old", "gone"], ["new", "old"]]


async def test_rows_do_not_share_what_was_found():
    """A later step may change a row in place."""
    async with enrich(Table()) as step:
        first = await step(rows("new", "new"))
        first.rows[0]["status_label"] = "changed"
        assert first.rows[1]["status_label"] == "New"
        assert (await step(rows("new"))).rows[0]["status_label"] == "New"


async def test_two_records_with_one_key_fail_the_step():
    """Which one a row gets would be chance. The message names the column and not the key."""
    table = Table(rows=[*STATUSES, STATUSES[0]])
    async with enrich(table) as step:
        with pytest.raises(StepFailed, match="two records of its query have the same 'code'") as failed:
            await step(rows("new"))
    assert "new" not in str(failed.value)


# -- columns -------------------------------------------------------------------------------------


async def test_columns_are_known_once_it_is_open():
    """Before, without a server, the added ones are there with types that nobody knows."""
    step = enrich(Table(), add={"r": "rank"})
    assert step.columns.names == ("id", "status", "r")
    assert step.columns.find("r") == Column("r", typed=False)

    async with step:
        added = step.columns.find("r")
        assert step.columns.names == ("id", "status", "r")
        assert (added.kind, added.typed, added.unchanged, added.origins) == (Kind.INTEGER, True, False, {"s"})


async def test_it_opens_what_the_options_name_and_closes_it():
    """The query, the secret with the DSN, and the form of the dataset's format."""
    table = Table()
    async with enrich(table, dsn="warehouse"):
        assert table.is_open
    assert table.opened == [("SELECT …", "warehouse", "json")]
    assert not table.is_open
    assert options(dsn="warehouse").secrets == ("warehouse",)
    assert options().secrets == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": "cod"}, "reads 'cod', but its query gives code, label, rank"),
        ({"add": {"x": "lable"}}, "reads 'lable', but its query gives code, label, rank"),
        ({"on": "id"}, "looks for 'id', a number, in 'code', a text"),
    ],
)
async def test_what_does_not_fit_the_query(changes, message):
    """It is found when the step opens, which then leaves nothing open."""
    table = Table()
    with pytest.raises(InvalidStep, match=message):
        async with enrich(table, **changes):
            pass
    assert table.opened
    assert not table.is_open


def test_what_does_not_fit_the_rows():
    """It is found without a server: a column that isn't there, and a new one that is."""
    with pytest.raises(UnknownColumn, match="'states'"):
        enrich(Table(), on="states")
    with pytest.raises(InvalidStep, match="would replace the column 'id'"):
        enrich(Table(), add={"id": "label"})


async def test_behind_a_step_of_the_users_the_rows_tell():
    """Where columns aren't known, each row is looked at: it needs the key, and can't have the new column."""
    async with enrich(Table(), columns=UNKNOWN_COLUMNS) as step:
        done = await step(batch({"status": "new"}, {"other": 5, "status": None}))
        assert done.rows == [
            {"status": "new", "status_label": "New"},
            {"other": 5, "status": None, "status_label": None},
        ]
        with pytest.raises(UnknownColumn, match="'status'"):
            await step(batch({"status": "new"}, {"id": 1}))
        with pytest.raises(InvalidStep, match="'status_label'"):
            await step(batch({"status": "new", "status_label": "x"}))


@pytest.mark.parametrize(
    "changes",
    [{"missing": "skip"}, {"add": {}}, {"on": ""}, {"query": ""}, {"cache_rows": -1}, {"colour": 1}, {"dsn": ""}],
)
def test_options_are_checked(changes):
    """Unknown ones are refused, and values that mean nothing."""
    with pytest.raises(ValidationError):
        options(**changes)


def test_on_is_a_key_as_people_write_it():
    """YAML 1.1 takes a bare `on` for true; nothing else is taken for it."""
    written = "{query: SELECT, on: status, key: code, add: {label: label}}"
    assert EnrichTableOptions.model_validate(yaml.safe_load(written)).on == "status"
    with pytest.raises(ValidationError):
        EnrichTableOptions.model_validate(yaml.safe_load(written.replace("on:", "off:")))
    with pytest.raises(ValidationError):
        EnrichTableOptions.model_validate({True: "status", **options().model_dump()})
