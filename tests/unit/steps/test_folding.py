"""Steps that only choose, name or add columns are folded into the making of the rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.errors import InvalidStep, UnknownColumn
from pipeline_processing.rows.columns import Column, Columns
from pipeline_processing.rows.projection import Projection
from pipeline_processing.steps.add import Add
from pipeline_processing.steps.drop import Drop
from pipeline_processing.steps.expectations import NotNull
from pipeline_processing.steps.rename import Rename
from pipeline_processing.steps.select import Select
from pipeline_processing.steps.step import Step
from tests.unit.steps.step_context import batch, context

COLUMNS = Columns((Column("id"), Column("name"), Column("extra")))
RECORDS = [(1, "a", None), (2, "b", "x"), (3, None, "y")]
NAMES = st.sampled_from(["id", "name", "extra", "a", "b"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just(Select), st.lists(NAMES, min_size=1, max_size=4, unique=True)),
        st.tuples(st.just(Drop), st.lists(NAMES, min_size=1, max_size=2, unique=True)),
        st.tuples(st.just(Rename), st.dictionaries(NAMES, NAMES, min_size=1, max_size=3)),
        st.tuples(st.just(Add), st.dictionaries(NAMES, st.integers(0, 9), min_size=1, max_size=2)),
    ),
    max_size=6,
)


@given(kinds=STEPS)
async def test_folding_changes_nothing(kinds: list[tuple[type, object]]):
    """A folded step gives the rows that the step itself gives, in the same order of columns."""
    columns, projection = COLUMNS, Projection.of(COLUMNS.names)
    rows = projection.rows(RECORDS)
    for kind, options in kinds:
        try:
            step = kind(options, context(columns))
        except (UnknownColumn, InvalidStep):
            continue
        columns, rows = step.columns, (await step(batch(*rows))).rows
        further = step.fold(projection)
        if further is None:
            break
        projection = further
        assert [list(row.items()) for row in projection.rows(RECORDS)] == [list(row.items()) for row in rows]


@pytest.mark.parametrize(
    "steps",
    [
        [(Select, ["extra", "id"])],
        [(Drop, ["name"]), (Rename, {"extra": "name"}), (Add, {"x": 1, "y": 2}), (Drop, ["id", "x"])],
        [(Add, {"x": 1, "y": 2}), (Select, ["extra", "y", "x"]), (Rename, {"y": "z"})],
    ],
)
def test_all_of_these_are_folded(steps: list[tuple[type, object]]):
    """So that rows that only change their shape are never dicts."""
    columns, projection = COLUMNS, Projection.of(COLUMNS.names)
    for kind, options in steps:
        step = kind(options, context(columns))
        further = step.fold(projection)
        assert further is not None
        columns, projection = step.columns, further
    assert projection.names == columns.names


@pytest.mark.parametrize(
    "steps",
    [
        [(Add, {"x": 1}), (Select, ["x", "id"])],
        [(Add, {"x": 1}), (Select, ["x"])],
        [(NotNull, ["id"])],
    ],
)
def test_these_have_to_see_rows(steps: list[tuple[type, object]]):
    """A constant before a value, constants only, and whatever reads rows."""
    columns, projection = COLUMNS, Projection.of(COLUMNS.names)
    further: Projection | None = projection
    step: Step
    for kind, options in steps:
        assert further is not None
        step = kind(options, context(columns))
        columns, projection = step.columns, further
        further = step.fold(projection)
    assert further is None
