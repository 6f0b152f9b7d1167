"""JSON of exact values, both ways."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.rows.json_values import dumps, loads, non_finite


@pytest.mark.parametrize(
    "document",
    [
        "1.50", "1234567890123456789012345678901234567890", "-0.10", "0.1234567890123456789012345678901234567890",
        '{"a":[1,null,true,"x"],"b":{}}', '"\\n\\u001f\\"\\\\"', '"ключ 🦉\u2028"', "[]", '{"":""}', '"\\ud800"',
        "-0", "9" * 5000, "123456789.000",
    ],
)  # fmt: skip
def test_documents_come_back_as_they_were(document: str):
    """All digits, trailing zeros too, and halves of surrogate pairs, in one line."""
    assert dumps(loads(document)) == document
    assert dumps(loads(document.encode())) == document


@pytest.mark.parametrize(("number", "digits"), [("1e5", "100000"), ("1E-7", "0.0000001"), ("-1.50e1", "-15.0")])
def test_exponents_are_written_out(number: str, digits: str):
    """As jsonb does."""
    assert dumps(loads(number)) == digits


@pytest.mark.parametrize(
    ("value", "document"),
    [
        (float("nan"), '"NaN"'),
        (float("-inf"), '"-Infinity"'),
        (Decimal("Infinity"), '"Infinity"'),
        (Decimal("NaN"), '"NaN"'),
        (Decimal("1E+20"), "100000000000000000000"),
        (-0.0, "-0.0"),
        (1e300, "1e+300"),
        (2**100, str(2**100)),
        (True, "true"),
        (None, "null"),
        ((1, [2.5]), "[1,[2.5]]"),
        ({1: "x"}, '{"1":"x"}'),
        (datetime(2026, 1, 18, 10, 0, 0, 500000, tzinfo=UTC), '"2026-01-18T10:00:00.5+00:00"'),
        (datetime(2026, 1, 18, 10, tzinfo=timezone(timedelta(hours=5, minutes=30))), '"2026-01-18T10:00:00+05:30"'),
        (datetime(2026, 1, 18, 10), '"2026-01-18T10:00:00"'),  # noqa: DTZ001 - a timestamp without time zone
        (date(2026, 1, 18), '"2026-01-18"'),
        (UUID(int=5), '"00000000-0000-0000-0000-000000000005"'),
        ({"s": {"x"}}, '{"s":["x"]}'),
    ],
)
def test_values_of_steps(value: Any, document: str):
    """What JSON doesn't have is written as Postgres would write it."""
    assert dumps(value) == document


def test_separators():
    """As jsonb prints them."""
    assert dumps({"a": [1, 2], "b": {"c": None}}, separators=(", ", ": ")) == '{"a": [1, 2], "b": {"c": null}}'


def test_non_finite():
    """Postgres's words."""
    assert [non_finite(float(x)) for x in ("nan", "inf", "-inf")] == ["NaN", "Infinity", "-Infinity"]


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.decimals(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(document=DOCUMENTS)
def test_whatever_is_written_is_read_back(document: Any):
    """It is JSON, of one line, with the same values."""
    text = dumps(document)

    assert "\n" not in text
    assert loads(text) == document
    assert json.loads(text, parse_float=Decimal) == document


@given(
    text=st.recursive(
        st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
        | st.sampled_from(["-0", "-0.0", "null", "true", '"-0"', '"\\ud800"', '"\\u00e9"', "NaN", "01", "9" * 641])
        | st.text().map(json.dumps),
        lambda inner: (
            st.lists(inner).map(lambda parts: f"[{', '.join(parts)}]")
            | st.lists(inner, max_size=3).map(lambda parts: "{" + ",".join(f'"a": {part}' for part in parts) + "}")
        ),
        max_leaves=10,
    )
)
def test_documents_are_read_as_pythons_decoder_reads_them(text: str):
    """With numbers that are exact, of the same types; what isn't JSON has the same error."""

    def read(reader: Callable[[str], Any]) -> str:
        try:
            return repr(reader(text))
        except ValueError as error:
            return repr(error)

    def integer(digits: str) -> Any:
        return Decimal(digits) if digits == "-0" or len(digits) > 640 else int(digits)

    assert read(loads) == read(lambda each: json.loads(each, parse_float=Decimal, parse_int=integer))
