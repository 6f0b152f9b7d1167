"""Columns whose types only the rows tell: an expression over them means what it means where the types are known."""

# ruff: noqa: E501 - tables of samples

from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, given

from pipeline_processing.errors import InvalidStep
from pipeline_processing.expressions.expression import condition
from pipeline_processing.expressions.expression import expression as value_of
from pipeline_processing.kinds import column_of_kind, form_of
from pipeline_processing.ports import Rows
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Columns, Kind
from tests.contract.steps.generated_expressions import expressions, plain
from tests.properties import examples

VALUES: dict[str, tuple[Kind, list[Any]]] = {
    "i": (Kind.INTEGER, [5, None, -7]),
    "k": (Kind.INTEGER, [2, 0, None]),
    "n": (Kind.NUMBER, [Decimal("1.50"), Decimal("NaN"), None]),
    "m": (Kind.NUMBER, [None, Decimal("-0.5"), Decimal(3)]),
    "f": (Kind.FLOAT, [0.1, float("inf"), None]),
    "g": (Kind.FLOAT, [None, 2.5, -1e300]),
    "t": (Kind.TEXT, ["a", "2026-01-18", None]),
    "s": (Kind.TEXT, [None, "É", "1"]),
    "c": (Kind.TEXT, ["ab", None, ""]),
    "mood": (Kind.TEXT, [None, "zen", "angry"]),
    "b": (Kind.BOOLEAN, [True, False, None]),
    "B": (Kind.BOOLEAN, [None, True, True]),
    "d": (Kind.DATE, [date(2026, 1, 18), None, date(1, 1, 1)]),
    "ts": (Kind.TIMESTAMP, [datetime(2026, 1, 18, 10, 0, 0, 500000), None, datetime(1999, 12, 31)]),  # noqa: DTZ001 - so it is
    "tz": (Kind.TIMESTAMPTZ, [None, datetime(2026, 1, 18, 10, tzinfo=UTC), datetime(2026, 1, 18, tzinfo=UTC)]),
    "u": (Kind.UUID, [UUID(int=1), None, UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")]),
    "j": (Kind.JSON, [{"a": ["x", None]}, [1, "zwei"], None]),
}  # fmt: skip
PLACES = [0, 1, 2]
NATURAL: Rows = [
    {name: values[(place + shift * number) % 3] for number, (name, (_, values)) in enumerate(VALUES.items())}
    for place, shift in product(PLACES, PLACES)
]
KNOWN = Columns(tuple(column_of_kind(name, kind, "json") for name, (kind, _) in VALUES.items()))


def _carried(row: dict[str, Any]) -> dict[str, Any]:
    forms = {name: form_of(kind, "json") for name, (kind, _) in VALUES.items()}
    return {
        name: None if value is None else forms[name].carried(str(value) if isinstance(value, UUID) else value)
        for name, value in row.items()
    }


CARRIED: Rows = [_carried(row) for row in NATURAL]


@examples(400)
@given(marked=expressions("boolean"))
def test_types_from_the_rows_are_as_good_as_types_known_before(marked: str):
    """The same truths and the same row errors, null or not, in one batch whose rows have nulls in other places."""
    expression = plain(marked)
    try:
        known = condition(expression, KNOWN, carry="json", step="filter")
    except InvalidStep:
        assume(False)

    unknown = condition(expression, UNKNOWN_COLUMNS, carry="json", step="filter")

    truths, faults = unknown.run(NATURAL)
    expected, expected_faults = known.run(CARRIED)
    assert truths == expected
    assert faults.keys() == expected_faults.keys()


@pytest.mark.parametrize("expression", ["coalesce(round(n), 1.50)", "greatest(ceil(n), 1.50)", "coalesce(n + n, 1.50)"])
def test_a_null_takes_the_type_of_the_others(expression: str):
    """A null says nothing of its column's type: a row with one gets no double precision beside numeric constants."""
    compiled = value_of(expression, UNKNOWN_COLUMNS, carry="json", step="derive", column="x")

    found, faults = compiled.run([{"n": None}, {"n": Decimal(1)}])

    assert not faults
    assert found[0] == Decimal("1.50")
    assert all(isinstance(each, Decimal) for each in found)
    assert not compiled.result.typed


@pytest.mark.parametrize(
    ("expression", "kind"),
    [("lower(t)", Kind.TEXT), ("round(n, 2)", Kind.NUMBER), ("n = 1", Kind.BOOLEAN), ("j ->> 'a'", Kind.TEXT), ("n::text", Kind.TEXT),
     ("n + 1", None), ("coalesce(n, 1)", None), ("abs(n)", None), ("nullif(1, n)", None), ("CASE WHEN b THEN n ELSE 1 END", None)],
)  # fmt: skip
def test_types_that_are_known_before_the_first_row(expression: str, kind: Kind | None):
    """Those of forms that give the same type whatever they are given; others stay unknown."""
    result = value_of(expression, UNKNOWN_COLUMNS, carry="json", step="derive", column="x").result

    assert result.kind is kind
    assert result.typed == (kind is not None)


def test_constants_beside_untyped_columns_are_not_computed_too_early():
    """What a constant is used as may depend on the row, so a wrong type is a row's fault."""
    text = "extract(year FROM coalesce(true, n))"
    compiled = value_of(text, UNKNOWN_COLUMNS, carry="json", step="derive", column="x")

    _, faults = compiled.run([{"n": None}, {"n": date(2026, 1, 18)}])

    assert "gives EXTRACT YEAR boolean" in faults[0]
    assert "mixes boolean and date" in faults[1]
