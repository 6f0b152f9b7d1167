"""The loops over values, compiled and as they are written."""

import importlib.util
from datetime import UTC, datetime
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from pipeline_processing.rows import loops as installed
from pipeline_processing.rows.json_values import dumps, loads


def as_written() -> ModuleType:
    """The module without its compiled form."""
    path = installed.__file__.partition("loops.")[0] + "loops.py"
    spec = importlib.util.spec_from_file_location("loops_as_written", path)
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


@given(DOCUMENTS.filter(lambda document: isinstance(document, dict | list)))
def test_a_document_has_its_parts(document: Any):
    for loops in (installed, as_written()):
        parts = loops.parts_of(document)

        assert loops.has_parts(document, parts)
        more = loads(dumps(document))
        more.append(1) if isinstance(more, list) else more.update(new=1)
        assert not loops.has_parts(more, parts)


def test_every_change_of_a_document_is_seen(loops: Any):
    """Also one that keeps all parts, and one without end."""
    inner = [1]
    document = {"a": [inner, 2], "b": 3}
    parts = loops.parts_of(document)

    document["a"] = document.pop("a")
    assert not loops.has_parts(document, parts), "another order"
    document["b"] = document.pop("b")
    assert loops.has_parts(document, parts)
    inner.append(document["a"].pop())
    assert not loops.has_parts(document, parts), "moved into the inner list"
    document["a"].append(inner.pop())
    document["b"] = document
    assert not loops.has_parts(document, parts)


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
