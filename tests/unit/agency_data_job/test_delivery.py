"""A source may deliver encoded rows, or several columns as one value: artifacts are the same to the byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.errors import PipelineError
from pipeline_processing.formats.csv import AS_COPY_DOES
from pipeline_processing.kinds import column_of_kind, form_of
from pipeline_processing.ports import Template
from pipeline_processing.rows.columns import Columns, Kind
from pipeline_processing.rows.lines import Lines
from tests.memory.delivery import Outputs, delivered
from tests.properties import examples
from tests.unit.agency_data_job.chains import open_chain
from tests.unit.in_memory import Service, job
from tests.unit.memory_tables import MemoryTables
from tests.unit.virtual_clock import in_virtual_time

HOOKS = "tests.unit.steps.hooks"
KINDS = {
    "id": Kind.INTEGER,
    "name": Kind.TEXT,
    "amount": Kind.NUMBER,
    "ratio": Kind.FLOAT,
    "active": Kind.BOOLEAN,
    "seen": Kind.TIMESTAMPTZ,
    "doc": Kind.JSON,
    'odd "name"': Kind.TEXT,
}
TEXT = st.text(st.sampled_from('ab\\.,;"\n\r :NaInf{}é\U0001f600'), max_size=6) | st.sampled_from(["", ":NaN", "\\."])
VALUES: Mapping[Kind, st.SearchStrategy[Any]] = {
    Kind.INTEGER: st.integers(-(2**63), 2**63 - 1),
    Kind.TEXT: TEXT,
    Kind.NUMBER: st.decimals(allow_nan=False, allow_infinity=False, places=3) | st.just(Decimal("NaN")),
    Kind.FLOAT: st.floats(),
    Kind.BOOLEAN: st.booleans(),
    Kind.TIMESTAMPTZ: st.datetimes(timezones=st.just(UTC)),
    Kind.JSON: st.recursive(st.none() | st.integers() | TEXT, lambda some: st.dictionaries(TEXT, some, max_size=2)),
}
NATURALS = st.lists(
    st.tuples(*(st.none() | VALUES[kind] for kind in KINDS.values())),
    min_size=1,
    max_size=4,
)
STEPS = st.lists(
    st.sampled_from(
        [
            {"select": ["id", "name", "amount", "doc"]},
            {"select": ["doc", "name"]},
            {"drop": ["amount"]},
            {"drop": ["name", "active", "doc"]},
            {"rename": {"name": "named"}},
            {"rename": {"amount": "n", "ratio": "amount"}},
            {"add": {"by": "{run_id}", "much": 1.5, "none": None}},
            {"filter": "amount > 1 OR id > 0"},
            {"filter": "Name <> 'a'"},
            {"derive": {"twice": "active AND id > 1", "name": "name || 'x'"}},
            {"mask": {"columns": ["ratio"], "using": "redact"}},
            {"cast": {"amount": "text"}},
            {"flatten": {"column": "doc", "fields": {"a": "json"}}},
            {"dedupe": {"by": ["name"]}},
            {"python": {"function": f"{HOOKS}:watch", "reads": ["id", "doc"], "adds": {"extra": "text"}}},
            {"python": {"function": f"{HOOKS}:watch", "reads": ["seen", "amount"]}},
            {"python": {"function": f"{HOOKS}:columns_again", "takes": "columns", "reads": ["name", "ratio"]}},
            {"python": f"{HOOKS}:watch"},
            {"validate": {"json_schema": {"properties": {"id": {"type": ["integer", "null"], "minimum": 0}}}}},
        ]
    ),
    max_size=3,
)


class Asked:
    """One batch, and what it was asked to be."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.outputs: Outputs | None = None

    def deliver(self, outputs: Outputs) -> bool:
        self.outputs = outputs
        return True

    def __aiter__(self) -> Asked:
        return self

    async def __anext__(self) -> Any:
        raise StopAsyncIteration


def columns(carry: str) -> Columns:
    return Columns(tuple(column_of_kind(name, kind, carry, origins={name}) for name, kind in KINDS.items()))


def carried(naturals: Sequence[Sequence[Any]], carry: str) -> Sequence[tuple[Any, ...]]:
    forms = [form_of(kind, carry) for kind in KINDS.values()]
    return [
        tuple(None if value is None else form.carried(value) for form, value in zip(forms, row, strict=True))
        for row in naturals
    ]


async def encoded(
    steps: Sequence[Mapping[str, Any]], records: Any, *, carry: str, asks: bool, **options: Any
) -> tuple[Any, Outputs | None]:
    """The bytes written, rejected rows among them, or the error; and what the source was asked for."""
    batches = Asked(columns(carry))
    try:
        async with open_chain(*steps, columns=batches.columns, **options) as chain:
            if asks:
                chain.ask(batches)
            written = chain.format.head()
            for piece in chain.pieces(delivered(records, batches.outputs)):
                rows = (await chain(piece)).rows
                if len(rows):
                    written += bytes(rows) if isinstance(rows, Lines) else chain.format.encode(rows)
            return (written, chain.rejected()), batches.outputs
    except PipelineError as error:
        return (type(error), str(error)), batches.outputs


@examples(300)
@given(
    steps=STEPS,
    naturals=NATURALS,
    on_row_error=st.sampled_from(["fail", "skip", "quarantine"]),
    form=st.sampled_from(
        [
            {"format": "ndjson"},
            {"format": "csv"},
            {"format": "csv", "csv": {"delimiter": ";", "null": "a", "header": False}},
        ]
    ),
)
async def test_artifacts_do_not_depend_on_what_the_source_delivers(
    steps: Sequence[Mapping[str, Any]],
    naturals: Sequence[Sequence[Any]],
    on_row_error: str,
    form: Mapping[str, Any],
):
    """For any steps and values: rows written, rows rejected, and errors."""
    carry = "json" if form["format"] == "ndjson" else "text"
    records = carried(naturals, carry)

    plain, _ = await encoded(steps, records, carry=carry, asks=False, on_row_error=on_row_error, **form)
    asked, _ = await encoded(steps, records, carry=carry, asks=True, on_row_error=on_row_error, **form)

    assert asked == plain


# -- what is asked for ---------------------------------------------------------------------------


async def outputs(*steps: Mapping[str, Any], **options: Any) -> Outputs | None:
    carry = "text" if options.get("format") == "csv" else "json"
    return (await encoded(steps, [(None,) * len(KINDS)], carry=carry, asks=True, **options))[1]


async def test_lines_are_asked_for_where_no_step_reads_rows():
    """Whatever is left to do is done by the source: choosing, naming and adding columns."""
    line = await outputs({"select": ["name", "id"]}, {"rename": {"id": "no"}}, {"add": {"by": "{run_id}", "n": None}})

    assert line == Template(((1, b'{"name":'), (0, b',"no":')), b',"by":"r-1","n":null}\n')


async def test_untouched_neighbours_are_one_value():
    asked = await outputs({"filter": "active"}, {"mask": {"columns": ["ratio"], "using": "redact"}})

    assert asked == [
        Template(((0, b""), (1, b',"name":'), (2, b',"amount":')), b""),
        3,
        4,
        Template(((5, b""), (6, b',"doc":'), (7, b',"odd \\"name\\"":')), b""),
    ]


async def test_a_filter_needs_columns_that_are_not_written():
    """They come behind those that are."""
    asked = await outputs({"filter": "id > 1"}, {"select": ["name", "amount", "ratio"]}, {"cast": {"ratio": "text"}})

    assert asked == [Template(((1, b""), (2, b',"amount":')), b""), 3, 0]


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ({}, Template(((1, b'{"name":'), (2, b',"amount":')), b"}\n")),
        ({"format": "csv"}, Template(((1, b""), (2, b",")), b"\n", AS_COPY_DOES)),
    ],
)
async def test_filters_alone_need_their_columns_and_the_line(form: dict[str, Any], line: Template):
    """Kept lines are written as they are."""
    asked = await outputs({"rename": {"id": "no"}}, {"filter": "no > 1"}, {"select": ["name", "amount"]}, **form)

    assert asked == [0, line]


@pytest.mark.parametrize(
    ("steps", "options"),
    [
        ([{"python": f"{HOOKS}:watch"}], {}),
        ([{"filter": "active"}], {"on_row_error": "quarantine"}),
        ([{"validate": {"json_schema": True}}], {}),
    ],
)
async def test_all_columns_are_needed(steps: Sequence[Mapping[str, Any]], options: dict[str, Any]):
    """Where a step may read any, or rejected rows are shown."""
    assert await outputs(*steps, **options) is None


async def test_a_csv_dataset_asks_only_for_its_columns():
    asked = await outputs({"select": ["id", "name", "active"]}, {"dedupe": {"by": ["id"]}}, format="csv")

    assert asked == [0, 1, 4]


# -- into artifacts ------------------------------------------------------------------------------

ROWS = {
    "records": [[(str(number), f"{number:03}" * 50) for number in range(start, start + 40)] for start in (0, 40, 80)]
}


@pytest.mark.parametrize(
    "options",
    [
        {"max_artifact_rows": 7},
        {"format": "csv", "max_artifact_rows": 50},
        {"max_artifact_mib": 1},
    ],
)
@in_virtual_time
async def test_runs_publish_the_same(options: dict[str, Any]) -> None:
    """Cut into artifacts, into tables, with all counts."""
    seen = []
    for delivers in (False, True):
        tables = MemoryTables()
        of = Service(config=job("records", **options), rows=ROWS, delivers=delivers, others=[tables])
        await of.accept()
        run = (await of.attempt()).run
        seen.append((of.visible(), tables.objects, run.rows_read, run.rows_written, run.bytes_written))

    assert seen[0] == seen[1]
    assert seen[0][2:4] == (120, 120)


@in_virtual_time
async def test_a_line_that_is_too_long_fails_the_run() -> None:
    of = Service(config=job("records"), rows={"records": [[(1, "a"), (2, "x" * 2_000_000)]]})
    await of.accept()

    error = (await of.attempt()).run.error

    assert error is not None
    assert error.kind == "row_too_large"
    assert of.visible() == {}
