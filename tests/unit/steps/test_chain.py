"""A dataset's steps together: bound to columns before the first row, run in order, and folded where they can be."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from pipeline_processing.errors import InvalidStep, UnknownColumn
from pipeline_processing.ports import Batch, Column
from pipeline_processing.steps.chain import Chain, bind
from pipeline_processing.steps.config import StepConfig
from pipeline_processing.values import PLAIN_NUMBER, PLAIN_TEXT

COLUMNS = (Column("id", comparison=PLAIN_NUMBER), Column("name", comparison=PLAIN_TEXT), Column("extra"))
RECORDS = [(1, "a", None), (2, "b", "x"), (3, None, "y")]
HOOKS = "tests.unit.steps.hooks"


def chain(*steps: dict[str, Any]) -> Chain:
    configs = TypeAdapter(list[StepConfig]).validate_python(steps)
    return bind(configs, COLUMNS, dataset="records", arguments={"run_id": "r-1"})


async def run(bound: Chain) -> Batch:
    return await bound(bound.projection.rows(RECORDS))


def names(bound: Chain) -> list[str]:
    return [column.name for column in bound.columns]


async def test_no_steps():
    """Rows pass, nothing has to touch them."""
    bound = chain()

    assert await run(bound) == [dict(zip(("id", "name", "extra"), record, strict=True)) for record in RECORDS]
    assert (bound.fixed, bound.touches_rows, bound.filtered) == (True, False, 0)
    assert bound.columns == COLUMNS


async def test_each_step_sees_what_the_one_before_it_made():
    """Names, constants and dropped rows go from step to step; counts add up."""
    bound = chain(
        {"rename": {"name": "label"}},
        {"add": {"run": "{run_id}"}},
        {"filter": "label IS NOT NULL AND run = 'r-1'"},
        {"select": ["run", "id", "label"]},
        {"filter": "id > 1"},
    )

    assert await run(bound) == [{"run": "r-1", "id": 2, "label": "b"}]
    assert names(bound) == ["run", "id", "label"]
    assert bound.filtered == 2
    assert bound.fixed


async def test_after_a_python_step_the_rows_tell():
    """Columns aren't known beforehand any more; steps behind it still work."""
    bound = chain({"select": ["id", "name"]}, {"python": f"{HOOKS}:drop_odd"}, {"rename": {"id": "key"}})

    assert await run(bound) == [{"key": 2, "name": "b"}]
    assert not bound.fixed
    assert names(bound) == ["id", "name"]
    assert bound.filtered == 2


async def test_an_empty_batch_is_not_passed_on():
    """Steps behind one that dropped everything aren't called."""
    assert await run(chain({"filter": "false"}, {"python": f"{HOOKS}:fail"})) == []


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        ([{"select": ["id"]}, {"filter": "name = 'a'"}], UnknownColumn),
        ([{"rename": {"id": "key"}}, {"select": ["id"]}], UnknownColumn),
        ([{"add": {"id": 1}}], InvalidStep),
        ([{"add": {"x": 1}}, {"add": {"x": 2}}], InvalidStep),
        ([{"filter": "id ="}], InvalidStep),
        ([{"python": "nowhere:f"}], InvalidStep),
    ],
)
def test_faults_show_before_the_first_row(steps: list[dict[str, Any]], error: type[Exception]):
    """Binding is enough to find them."""
    with pytest.raises(error):
        chain(*steps)


NAMES = st.sampled_from(["id", "name", "extra", "a", "b"])
FOLDABLE = st.lists(
    st.one_of(
        st.builds(lambda names: {"select": names}, st.lists(NAMES, min_size=1, max_size=4, unique=True)),
        st.builds(lambda names: {"rename": names}, st.dictionaries(NAMES, NAMES, min_size=1, max_size=3)),
        st.builds(
            lambda constants: {"add": constants}, st.dictionaries(NAMES, st.integers(0, 9), min_size=1, max_size=2)
        ),
    ),
    max_size=6,
)


@given(steps=FOLDABLE)
async def test_folding_changes_nothing(steps: list[dict[str, Any]]):
    """Steps that are folded into the making of the rows give the same rows, and the same faults, as called ones."""
    try:
        folded = chain(*steps)
    except (InvalidStep, UnknownColumn):
        with pytest.raises((InvalidStep, UnknownColumn)):
            chain({"filter": "true"}, *steps)
        return
    called = chain({"filter": "true"}, *steps)

    rows = await run(folded)
    assert [list(row.items()) for row in rows] == [list(row.items()) for row in await run(called)]
    assert folded.columns == called.columns
    assert names(folded) == list(rows[0])
