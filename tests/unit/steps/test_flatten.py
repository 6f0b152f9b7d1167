"""`flatten` makes columns of the fields of a json column."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from pydantic import ValidationError

from pipeline_processing.errors import InvalidStep, UnknownColumn
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Column, Columns, Kind
from pipeline_processing.rows.untouched import remembering
from pipeline_processing.steps.flatten import Flatten, FlattenOptions
from tests.unit.steps.step_context import CollectedErrors, batch, context

NESTED = 200_000


def columns(carry: str) -> Columns:
    return Columns(
        (
            column_of_kind("id", Kind.INTEGER, carry, origins=["id"]),
            column_of_kind("doc", Kind.JSON, carry, origins=["doc"]),
            column_of_kind("name", Kind.TEXT, carry, origins=["name"]),
        )
    )


def flatten(
    fields: dict[str, str],
    *,
    there: Columns | None = None,
    carry: str = "json",
    errors: CollectedErrors | None = None,
    **options: Any,
) -> Flatten:
    parsed = FlattenOptions.model_validate({"column": "doc", "fields": fields, **options})
    return Flatten(parsed, context(there or columns(carry), carry=carry, row_errors=errors or CollectedErrors()))


def carried(document: Any, carry: str) -> Raw | str:
    text = document if isinstance(document, str) else json.dumps(document)
    return Raw(text) if carry == "json" else text


async def one(document: Any, kind: str, *, carry: str = "json", path: str = "x") -> Any:
    """The natural value of a document's one field."""
    step = flatten({path: kind}, carry=carry)
    row = {"id": 1, "doc": carried(document, carry), "name": "n"}
    [flat] = (await step(batch(row))).rows
    value = flat[path.replace(".", "_")]
    natural = step.columns.require(path.replace(".", "_"), step="test").natural
    return value if value is None or natural is None else natural(value)


async def fault(document: Any, kind: str, path: str = "x", *, there: Columns | None = None) -> str | None:
    """Why a row is rejected; None if it isn't."""
    errors = CollectedErrors()
    value = carried(document, "json") if there is None else document
    await flatten({path: kind}, errors=errors, there=there)(batch({"id": 1, "doc": value, "name": "n"}))
    return errors.rejected[0][1] if errors.rejected else None


@pytest.mark.parametrize("carry", ["json", "text"])
async def test_fields_become_columns_behind_the_others(carry: str):
    """In the order declared; the json column goes, unless it is to be kept."""
    fields = {"city": "text", "address.zip": "text", "n": "integer"}
    row = {"id": 1, "doc": carried('{"n":7,"address":{"zip":"1000"},"city":"Bern"}', carry), "name": "x"}

    step = flatten(fields, carry=carry, prefix="doc_")
    [flat] = (await step(batch(row))).rows
    assert list(flat) == ["id", "name", "doc_city", "doc_address_zip", "doc_n"] == list(step.columns.names)
    assert (flat["doc_city"], flat["doc_address_zip"], int(flat["doc_n"])) == ("Bern", "1000", 7)

    kept = flatten(fields, carry=carry, keep=True)
    [flat] = (await kept(batch(row))).rows
    assert list(flat) == ["id", "doc", "name", "city", "address_zip", "n"] == list(kept.columns.names)
    assert flat["doc"] is row["doc"]
    assert list(row) == ["id", "doc", "name"]


def test_columns_are_typed_and_know_their_origin():
    """So that later steps can be checked, and a mask behind it reaches back to the source."""
    step = flatten({"x": "number", "y": "json"})

    found = step.columns.require("x", step="test")
    assert (found.kind, found.origins, found.unchanged, found.typed) == (Kind.NUMBER, {"doc"}, False, True)
    assert step.columns.require("y", step="test").kind is Kind.JSON


@pytest.mark.parametrize("carry", ["json", "text"])
@pytest.mark.parametrize("document", ["{}", '{"x": null}', "null", '{"X": 1}', '{"y": {"x": 1}}', None])
async def test_what_is_not_there_is_null(document: str | None, carry: str):
    """A missing field, a null one, a null document, a null column."""
    step = flatten({"x": "integer", "a.b": "text"}, carry=carry)
    value = None if document is None else carried(document, carry)

    [flat] = (await step(batch({"id": 1, "doc": value, "name": None}))).rows

    assert (flat["x"], flat["a_b"]) == (None, None)


@pytest.mark.parametrize(
    "document", ['{"a": null}', "{}", '{"a": {}}', '{"a": {"b": {}}}', '{"a": {"b": {"c": null}}}']
)
async def test_nested_fields_of_what_is_not_there_are_null(document: str):
    """However far up the path ends."""
    assert await one(document, "text", path="a.b.c") is None


VALUES = [
    ("text", '"Zürich 🦉"', "Zürich 🦉"),
    ("text", '"\\u00e9"', "é"),
    ("text", '""', ""),
    ("integer", "5", 5),
    ("integer", "-9223372036854775808", -(2**63)),
    ("integer", "5.0", 5),
    ("integer", "5e2", 500),
    ("integer", "-0", 0),
    ("number", "0.10", Decimal("0.10")),
    ("number", "1234567890123456789012345678901234567890.5", Decimal("1234567890123456789012345678901234567890.5")),
    ("number", "1e20", Decimal("1e20")),
    ("number", "7", Decimal(7)),
    ("number", "0e-999999999", Decimal(0)),
    ("float", "0.1", 0.1),
    ("float", "1e300", 1e300),
    ("boolean", "true", True),
    ("boolean", "false", False),
    ("date", '"2026-01-18"', date(2026, 1, 18)),
    ("timestamp", '"2026-01-18T10:00:00.5"', datetime.fromisoformat("2026-01-18T10:00:00.5")),
    ("timestamptz", '"2026-01-18T12:00:00+02:00"', datetime(2026, 1, 18, 10, tzinfo=UTC)),
    ("timestamptz", '"2026-01-18T10:00:00Z"', datetime(2026, 1, 18, 10, tzinfo=UTC)),
    ("timestamptz", '"2026-01-18 10:00:00"', datetime(2026, 1, 18, 10, tzinfo=UTC)),
    ("uuid", '"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"', "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("json", '{"a": [1.50, "x"]}', {"a": [Decimal("1.50"), "x"]}),
]


@pytest.mark.parametrize("carry", ["json", "text"])
@pytest.mark.parametrize(("kind", "value", "natural"), VALUES)
async def test_values_of_every_kind(kind: str, value: str, natural: Any, carry: str):
    """Exactly the value that stands in the document, in both forms."""
    found = await one(f'{{"w": 1, "x": {value}, "z": []}}', kind, carry=carry)

    assert (found, type(found) is bool) == (natural, type(natural) is bool)


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("text", "5", "doc.x: not text"),
        ("text", "{}", "doc.x: not text"),
        ("integer", '"5"', "doc.x: not an integer"),
        ("integer", "5.5", "doc.x: not an integer"),
        ("integer", "true", "doc.x: not an integer"),
        ("integer", "9223372036854775808", "doc.x: an integer of more than 64 bits: declare it as a number"),
        ("integer", "1e999999999", "doc.x: a number out of range"),
        ("number", '"1"', "doc.x: not a number"),
        ("number", "true", "doc.x: not a number"),
        ("number", "1e999999999", "doc.x: a number out of range"),
        ("number", "1e-999999999", "doc.x: a number out of range"),
        ("float", "1e400", "doc.x: a number out of a float's range"),
        ("boolean", "1", "doc.x: not a boolean"),
        ("boolean", '"true"', "doc.x: not a boolean"),
        ("date", '"18.1.2026"', "doc.x: not a date in ISO's form"),
        ("date", "20260118", "doc.x: not a date in ISO's form"),
        ("timestamp", '"2026-01-18T10:00:00Z"', "doc.x: a timestamp with a time zone: declare it as timestamptz"),
        ("timestamptz", '"yesterday"', "doc.x: not a timestamp in ISO's form"),
        ("timestamptz", '"0001-01-01T00:00:00+14:00"', "doc.x: a timestamp that in UTC is outside the years 1 to 9999"),
        ("uuid", '"a0ee"', "doc.x: not a uuid"),
        ("uuid", "5", "doc.x: not a uuid"),
    ],
)
async def test_a_wrong_type_is_a_row_error(kind: str, value: str, reason: str):
    """The reason names the field and never the value."""
    assert await fault(f'{{"x": {value}}}', kind) == reason


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("[1]", "doc: not an object"),
        ('"{}"', "doc: not an object"),
        ("5", "doc: not an object"),
        ('{"a": []}', "doc.a: not an object"),
        ('{"a": "{}"}', "doc.a: not an object"),
        ('{"a": {"b": 5}}', "doc.a.b: not an object"),
        ('{"q":' + "[" * NESTED + "]" * NESTED + "}", "doc: not JSON, or too deeply nested"),
    ],
)
async def test_what_is_no_object_is_a_row_error(document: str, reason: str):
    """On the way to a nested field, too."""
    assert await fault(document, "text", "a.b.c") == reason


async def test_other_rows_of_the_batch_go_on():
    """Only the rows with a fault are rejected; the others keep their numbers."""
    errors = CollectedErrors()
    step = flatten({"n": "integer"}, errors=errors)
    documents = ['{"n": 1}', '{"n": "x"}', '{"n": 3}', "[]"]

    left = await step(batch(*({"id": 1, "doc": Raw(each), "name": ""} for each in documents), first=11))

    assert [row["n"] for row in left.rows] == [1, 3]
    assert list(left.numbers or ()) == [11, 13]
    assert errors.rejected == [
        (12, "doc.n: not an integer", "flatten: doc"),
        (14, "doc: not an object", "flatten: doc"),
    ]
    assert step.filtered == 0


@pytest.mark.parametrize("carry", ["json", "text"])
async def test_documents_stay_as_they_are_written(carry: str):
    """A json field isn't parsed: repeated keys, digits and exponents stay."""
    fragment = '{"b": 1e5, "b": 1.10, "a": "\\u00e9"}'
    step = flatten({"x": "json"}, carry=carry)

    [flat] = (await step(batch({"id": 1, "doc": carried(f'{{"x":{fragment}}}', carry), "name": ""}))).rows

    value = flat["x"]
    assert (bytes(value).decode() if carry == "json" else value) == fragment


@pytest.mark.parametrize("carry", ["json", "text"])
async def test_half_of_a_surrogate_pair_elsewhere_is_no_fault(carry: str):
    """Postgres's type json takes it, msgspec doesn't."""
    document = '{"bad": "\\ud800", "x": 1.50, "a": {"\\udfff": 1, "b": "y"}}'

    assert await one(document, "number", carry=carry) == Decimal("1.50")
    assert await one(document, "text", carry=carry, path="a.b") == "y"


async def test_of_repeated_keys_the_last_one_counts():
    """As in jsonb."""
    assert await one('{"x": 1, "x": 2}', "integer") == 2


async def test_a_path_and_a_path_below_it():
    """An object can be a column itself, and some of its fields others."""
    step = flatten({"a": "json", "a.b": "integer", "a.c.d": "integer"})

    [flat] = (await step(batch({"id": 1, "doc": Raw('{"a":{"b":1,"c":{"d":2}}}'), "name": ""}))).rows

    assert (bytes(flat["a"]), flat["a_b"], flat["a_c_d"]) == (b'{"b":1,"c":{"d":2}}', 1, 2)


# -- against a plain reading ---------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5)
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3), max_leaves=8
)


@given(document=DOCUMENTS, path=st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3))
@pytest.mark.parametrize("kind", ["text", "integer", "boolean", "json"])
@pytest.mark.parametrize("carry", ["json", "text"])
async def test_fields_are_what_a_walk_through_the_document_finds(document: Any, path: list[str], kind: str, carry: str):
    """Or the row is rejected where the walk meets what isn't an object, or ends at another type."""
    errors = CollectedErrors()
    step = flatten({".".join(path): kind}, errors=errors, carry=carry)

    rows = (await step(batch({"id": 1, "doc": carried(json.dumps(document), carry), "name": ""}))).rows

    found, fits = document, True
    for name in path:
        if found is not None and not isinstance(found, dict):
            fits = False
            break
        found = None if found is None else found.get(name)
    types = {"text": str, "integer": int, "boolean": bool, "json": object}
    fits = fits and (found is None or isinstance(found, types[kind]))
    if kind == "integer" and isinstance(found, bool):
        fits = False
    assert bool(rows) is fits is not bool(errors.rejected)
    if rows:
        value = rows[0]["_".join(path)]
        if value is not None and kind == "json":
            value = json.loads(bytes(value) if carry == "json" else value)
        elif value is not None and kind != "text" and carry == "text":
            value = {"t": True, "f": False}[value] if kind == "boolean" else int(value)
        assert value == found


# -- behind a python step ------------------------------------------------------------------------


async def test_documents_of_a_python_step():
    """Dicts are read as they are, and an unchanged one as it was carried."""
    step = flatten({"x": "number", "y": "json", "d": "date", "u": "uuid"}, there=UNKNOWN_COLUMNS)
    unchanged = remembering({"x": Decimal("1.5"), "y": {"k": 1}}, Raw('{"x": 1.5, "y": {"k":  1}}'))
    own = {"x": 0.1, "y": [None], "d": date(2026, 1, 18), "u": UUID(int=5)}

    first, second = (await step(batch({"doc": unchanged, "id": 1}, {"doc": own}))).rows

    assert {name: bytes(first[name]) for name in ("x", "y")} == {"x": b"1.5", "y": b'{"k":  1}'}
    assert {name: bytes(second[name]) for name in ("x", "y")} == {"x": b"0.1", "y": b"[null]"}
    assert (second["d"], second["u"]) == ("2026-01-18", str(UUID(int=5)))


@pytest.mark.parametrize("document", ["{}", [1], {"x": "y"}, {"x": float("nan")}])
async def test_what_a_python_step_left_may_be_wrong_as_well(document: Any):
    """Text isn't parsed: a function that wants an object returns a dict."""
    assert await fault(document, "number", there=UNKNOWN_COLUMNS) is not None


async def test_columns_are_checked_in_rows():
    """Behind a python step only the rows tell."""
    step = flatten({"x": "text"}, there=UNKNOWN_COLUMNS)

    with pytest.raises(UnknownColumn, match="'doc'"):
        await step(batch({"id": 1}))
    with pytest.raises(InvalidStep, match="replace the column 'x'"):
        await step(batch({"doc": None, "x": 1}))


# -- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"column": "nope"}, UnknownColumn, "'nope'"),
        ({"column": "name"}, InvalidStep, "needs a json column, and 'name' is text"),
        ({"fields": {"name": "text"}}, InvalidStep, "replace the column 'name'"),
        ({"fields": {"a.b": "text", "a_b": "text"}}, InvalidStep, "two columns the name 'a_b'"),
        ({"fields": {}}, ValidationError, "at least 1"),
        ({"fields": {"a..b": "text"}}, ValidationError, "isn't a path"),
        ({"fields": {"": "text"}}, ValidationError, "isn't a path"),
        ({"fields": {"a": "varchar"}}, ValidationError, "'text'"),
        ({"separator": "-"}, ValidationError, "Extra inputs"),
    ],
)
def test_wrong_options_are_found_before_the_first_row(options: dict[str, Any], error: type[Exception], message: str):
    """The message says what is wrong."""
    with pytest.raises(error, match=message):
        flatten(**{"fields": {"x": "text"}, **options})


def test_a_field_may_be_called_as_the_column_that_goes():
    """Its place is free then; not if the json column is kept."""
    assert flatten({"doc": "text"}).columns.names == ("id", "name", "doc")
    with pytest.raises(InvalidStep, match="replace the column 'doc'"):
        flatten({"doc": "text"}, keep=True)


def test_a_column_of_another_type_is_refused():
    """Also one of which only the source knows the type."""
    with pytest.raises(InvalidStep, match="of another type"):
        flatten({"x": "text"}, there=Columns((Column("doc"),)))
