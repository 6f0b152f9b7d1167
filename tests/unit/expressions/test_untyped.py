"""Columns whose types only the rows tell: an expression over them means what it means where the types are known."""

from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import product
from typing import Any
from uuid import UUID

from hypothesis import assume, given

from pipeline_processing.errors import InvalidStep
from pipeline_processing.expressions.expression import condition, results
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

    truths, faults = results(unknown, NATURAL)
    expected, expected_faults = results(known, CARRIED)
    assert truths == expected
    assert faults.keys() == expected_faults.keys()
