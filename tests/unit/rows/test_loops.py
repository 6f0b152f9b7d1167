"""The loops over values, compiled and as they are written."""

from collections import OrderedDict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from msgspec import Raw

from pipeline_processing.rows import loops as installed
from pipeline_processing.rows.json_values import loads
from tests.unit.rows.as_written import as_written


@pytest.fixture(params=[installed, as_written(installed)], ids=["installed", "as written"])
def loops(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_rows_have_values_and_constants_by_name(loops: Any):
    assert loops.rows_of(("a", "b", "c"), [(1, "x"), [2, None]], (3,)) == [
        {"a": 1, "b": "x", "c": 3},
        {"a": 2, "b": None, "c": 3},
    ]


@pytest.mark.parametrize(
    "value", [1.5, Decimal(1), datetime(2026, 1, 18, tzinfo=UTC), {}, [], (), b"", type("S", (str,), {})("x")]
)
def test_what_is_not_plain(loops: Any, value: Any):
    plain = {"a": 1, "b": "x", "c": None, "d": True, "e": Raw(b"1")}

    assert loops.are_plain([plain, plain])
    assert not loops.are_plain([plain, plain | {"f": value}])
    assert not loops.are_plain([plain, [1]])


def test_short_fragments(loops: Any):
    """Of those that a NaN or an infinity may be."""
    rows = [{"a": Raw(b"-Infinity"), "b": "NaN", "c": 1}, OrderedDict(a=Raw(b'"123456789"'), b=Raw(b"1.5"))]

    assert loops.short_fragments(rows) == b"-Infinity1.5"


def test_the_same_objects(loops: Any):
    one, other = {}, {}

    assert loops.are_same([one, other], [one, other])
    assert not loops.are_same([one, other], [other, one])
    assert not loops.are_same([one], [one, other])


def test_values_to_convert_are_told_apart(loops: Any):
    """What is still the same object stays, nulls and values of the plain type are set."""
    was, rows = ["a", "b", None, "d"], [{"n": "carried"} for _ in range(4)]

    assert loops.take(rows, "n", was, [was[0], "c", None, 5], str) == [3]
    assert [row["n"] for row in rows] == ["carried", "c", "carried", "carried"]
    assert loops.take(rows, "n", None, [was[0], None, 1.5, "x"], None) == [0, 2, 3]
    assert rows[1]["n"] is None


@pytest.mark.parametrize(
    "text", ["1.5", "-0", "0.30000000000000004", "1e400", "NaN", "-Infinity", "123456789012345678901234567890"]
)
@pytest.mark.parametrize("form", [str, lambda text: Raw(text.encode())], ids=["text", "json"])
def test_floats(loops: Any, text: str, form: Any):
    """As Python reads them."""
    assert repr(loops.float_of(form(text))) == repr(float(text))


@pytest.mark.parametrize("text", ['{"a": 1.50}', "[-0, 1e5]", '"\\ud800"', "1" * 700])
def test_documents(loops: Any, text: str):
    """As `loads` reads them."""
    assert repr(loops.document_of(Raw(text.encode()))) == repr(loads(text))


class Some(list[Any]):
    """As a user's function may return."""


class Other(str):
    """As a plugin's step may leave."""


def test_subclasses_of_list_dict_and_str(loops: Any):
    """What a user's function or a plugin gives is taken."""
    rows = Some([OrderedDict(a="2026-01-18", b=1)])

    assert loops.natural_rows(rows, [("b", str)]) == [{"a": "2026-01-18", "b": "1"}]
    assert loops.naturals_of(rows, "b", str) == ["1"]
    assert loops.columns_of(rows, ("b", "a")) == [[1], ["2026-01-18"]]
    assert not loops.are_plain(rows)
    assert loops.are_plain(Some([{"a": 1}]))
    assert loops.moment_of(Other("2026-01-18")) == datetime(2026, 1, 18)  # noqa: DTZ001  # text without a zone
    assert loops.take(rows, "a", None, Some(["x"]), str) == []
    assert rows[0]["a"] == "x"
