"""The loops over values, compiled and as they are written."""

import importlib.util
from collections import OrderedDict
from copy import deepcopy
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from pipeline_processing.rows import loops as installed
from pipeline_processing.rows.json_values import loads


def as_written() -> ModuleType:
    """The module without its compiled form."""
    path = installed.__file__.partition("loops.")[0] + "loops.py"
    spec = importlib.util.spec_from_file_location(installed.__name__, path)  # by this name, coverage is measured
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=[installed, as_written()], ids=["installed", "as written"])
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


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab"),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text("ab", max_size=1), some, max_size=3),
)


def settled(loops: Any, given: dict[str, Any], change: Any) -> Any:
    """The carried row after a function has changed what it got, or None if that is too difficult."""
    rows, values = [{name: f"carried {name}" for name in given}], list(given.values())
    parts = loops.parts_of(values)
    new = dict(given)
    new = change(new) or new
    return None if loops.settle(rows, [values], [parts], [new]) else rows[0]


@given(st.lists(DOCUMENTS, min_size=1, max_size=3))
def test_untouched_values_stay_carried(documents: list[Any]):
    for loops in (installed, as_written()):
        given = {f"n{place}": deepcopy(document) for place, document in enumerate(documents)}
        assert settled(loops, given, lambda row: None) == {name: f"carried {name}" for name in given}

        first = given["n0"]
        if isinstance(first, dict | list):
            assert settled(loops, given, lambda row: row | {"n0": deepcopy(row["n0"])}) is None
            longer = first.append if isinstance(first, list) else partial(first.__setitem__, "new")
            assert settled(loops, given, lambda row, longer=longer: longer(1)) is None


def test_values_of_other_kinds_are_set(loops: Any):
    given = {"a": 1, "b": 1.5, "c": {"d": [1, {}]}, "e": None}

    def change(row: dict[str, Any]) -> None:
        row["a"], row["b"], row["e"] = Decimal(1), 2.5, [2]

    assert settled(loops, given, change) == {"a": Decimal(1), "b": 2.5, "c": "carried c", "e": [2]}


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row | {"more": 1},
        lambda row: {"a": row["a"]},
        lambda row: dict(reversed(row.items())),
        lambda row: {f"{name}2": value for name, value in row.items()},
        lambda row: row | {"a": row["b"]},
        lambda row: row | {"a": row["c"]},
        lambda row: row | {"c": None},
        lambda row: (row["c"].pop("d"), row)[-1],
        lambda row: row["c"].update(d=row["c"]["d"][:]),
        lambda row: row["c"]["d"].append(1),
        lambda row: row["c"]["d"][1].update(x=row["c"]["d"].pop(0)),
        lambda row: row["c"].update(d=row["c"]),
        lambda row: row["c"].update(f=row["c"].pop("e")),
        lambda row: OrderedDict(row),
    ],
)
def test_the_difficult_is_left(loops: Any, change: Any):
    """Other columns, moved floats and documents, and every change of a document."""
    given = {"a": 1, "b": 1.5, "c": {"d": [1, {}], "e": 2}}

    assert settled(loops, given, change) is None


def test_documents_of_any_depth(loops: Any):
    """One that is too deep is left, not an error."""
    document: list[Any] = []
    for _ in range(5000):
        document = [document]

    assert settled(loops, {"a": document}, lambda row: None) in (None, {"a": "carried a"})


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


def test_rows_that_are_settled_may_come_in_a_subclass_of_list(loops: Any):
    """Those of a subclass of dict are left."""
    plain, other = {"a": "carried"}, OrderedDict(a="carried")

    assert loops.settle(Some([plain, other]), [[1], [1]], [[], []], Some([{"a": 2}, {"a": 2}])) == [1]
    assert (plain["a"], other["a"]) == (2, "carried")
