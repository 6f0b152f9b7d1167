"""`validate` checks rows against a JSON Schema or a pydantic model."""

import json
import socket
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from pydantic import ValidationError

from pipeline_processing.errors import InvalidStep, StepFailed
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.ports import Row
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Columns, Kind
from pipeline_processing.steps.validate import Validate, ValidateOptions
from tests.unit.steps.step_context import CollectedErrors, batch, context

MODELS = "tests.unit.steps.record_models"
KINDS = {
    "id": Kind.INTEGER,
    "amount": Kind.NUMBER,
    "email": Kind.TEXT,
    "at": Kind.TIMESTAMPTZ,
    "key": Kind.UUID,
    "address": Kind.JSON,
}
GOOD: dict[str, Row] = {
    "json": {
        "id": 1,
        "amount": Raw("1.50"),
        "email": "ann@example.org",
        "at": "2026-01-18T10:00:00+00:00",
        "key": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "address": Raw('{"zip": "1000"}'),
    },
    "text": {
        "id": "1",
        "amount": "1.50",
        "email": "ann@example.org",
        "at": "2026-01-18 10:00:00+00",
        "key": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "address": '{"zip": "1000"}',
    },
}
SCHEMA = {
    "type": "object",
    "required": ["id", "amount"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "amount": {"type": "number", "multipleOf": 0.01},
        "email": {"type": ["string", "null"], "format": "email", "maxLength": 20},
        "at": {"format": "date-time"},
        "key": {"type": "string", "format": "uuid"},
        "address": {
            "type": "object",
            "required": ["zip"],
            "properties": {"zip": {"pattern": "^[0-9]{4}$"}, "tags": {"items": {"enum": ["a", "b"]}}},
            "additionalProperties": {"type": "integer"},
        },
    },
}


def columns(carry: str) -> Columns:
    return Columns(tuple(column_of_kind(name, kind, carry) for name, kind in KINDS.items()))


def validate(
    *, carry: str = "json", there: Columns | None = None, errors: CollectedErrors | None = None, **options: Any
) -> Validate:
    return Validate(
        ValidateOptions.model_validate(options),
        context(there or columns(carry), carry=carry, row_errors=errors or CollectedErrors()),
    )


async def fault(row: Row, *, carry: str = "json", there: Columns | None = None, **options: Any) -> str | None:
    """Why the row is rejected; None if it isn't."""
    errors = CollectedErrors()
    step = validate(carry=carry, there=there, errors=errors, **options)
    after = await step(batch(row, {**row}))
    if errors.rejected:
        assert after.rows == []
        return errors.rejected[0][1]
    assert after.rows == [row, row]
    assert all(value is row[name] for name, value in after.rows[0].items())
    return None


# -- JSON Schema ---------------------------------------------------------------------------------


@pytest.mark.parametrize("carry", ["json", "text"])
async def test_rows_that_fit_pass_as_they_are(carry: str):
    """In both forms; columns and counts stay."""
    assert await fault(GOOD[carry], carry=carry, json_schema=SCHEMA) is None
    step = validate(carry=carry, json_schema=SCHEMA)
    assert (step.columns, step.filtered) == (columns(carry), 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": 0}, "id: too small (minimum)"),
        ({"id": None}, "id: not of type integer (type)"),
        ({"amount": Raw("1.505")}, "amount: isn't a multiple of what the schema says (multipleOf)"),
        ({"amount": Raw("12345678901234567890123456789.01")}, None),
        (
            {"amount": Raw("12345678901234567890123456789.011")},
            "amount: isn't a multiple of what the schema says (multipleOf)",
        ),
        ({"amount": Raw("NaN")}, "amount: not of type number (type)"),
        ({"email": "secret"}, "email: not in the format email (format)"),
        ({"email": None}, None),
        ({"at": "infinity"}, "at: not in the format date-time (format)"),
        ({"address": Raw('{"zip": "secret"}')}, "address.zip: doesn't match the pattern (pattern)"),
        ({"address": Raw("{}")}, "address.zip: is missing (required)"),
        ({"address": Raw('{"zip": "1000", "secret": "x"}')}, "address.*: not of type integer (type)"),
        (
            {"address": Raw('{"zip": "1000", "tags": ["a", "secret"]}')},
            "address.tags[1]: isn't one of the allowed values (enum)",
        ),
        ({"more": "secret"}, "the row: has more than the schema allows (additionalProperties)"),
        (
            {"id": 0, "amount": Raw("NaN"), "email": "secret", "address": Raw("5")},
            "; and more",
        ),
        ({"address": Raw('{"zip":' + "[" * 200_000 + "]" * 200_000 + "}")}, "the row: too deeply nested"),
    ],
)
async def test_a_fault_says_which_column_breaks_which_rule(change: Row, reason: str | None):
    """Never the value, nor a name that stands only in the data."""
    there = columns("json")
    if "more" in change:
        there = there.plus([column_of_kind("more", Kind.TEXT, "json")], step="test")
    found = await fault({**GOOD["json"], **change}, there=there, json_schema=SCHEMA)

    if reason is not None and reason.startswith(";"):
        assert found is not None
        assert found.endswith(reason)
        assert found.count(";") == 3
    else:
        assert found == reason
    assert "secret" not in (found or "")


async def test_only_the_rows_with_a_fault_go():
    """Others keep their numbers."""
    errors = CollectedErrors()
    step = validate(json_schema=SCHEMA, errors=errors)

    left = await step(batch(*({**GOOD["json"], "id": number} for number in (1, 0, 3)), first=5))

    assert [row["id"] for row in left.rows] == [1, 3]
    assert list(left.numbers or ()) == [5, 7]
    assert errors.rejected == [(6, "id: too small (minimum)", "validate")]


async def test_rows_of_a_python_step():
    """By the JSON that NDJSON would write for whatever it left."""
    schema = {"properties": {"x": {"const": 0.1}, "y": {"type": "array", "items": {"format": "date"}}}}

    assert await fault({"x": 0.1, "y": [date(2026, 1, 18)]}, there=UNKNOWN_COLUMNS, json_schema=schema) is None
    assert (
        await fault({"x": 0.2}, there=UNKNOWN_COLUMNS, json_schema=schema) == "x: isn't the one allowed value (const)"
    )


async def test_a_schema_from_a_file(tmp_path: Path):
    """The same as written inline, with exact numbers."""
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA).replace("0.01", "0.0100000000000000000000000000000000001"))

    assert await fault(GOOD["json"], json_schema_file=str(file)) is not None
    file.write_text(json.dumps(SCHEMA))
    assert await fault(GOOD["json"], json_schema_file=str(file)) is None


async def test_references_within_the_schema():
    """`$ref` finds what stands in it, and the drafts' own schemas."""
    schema = {"$defs": {"id": {"minimum": 5}}, "properties": {"id": {"$ref": "#/$defs/id"}}}

    assert await fault(GOOD["json"], json_schema=schema) == "id: too small (minimum)"
    own = {"$ref": "https://json-schema.org/draft/2020-12/schema"}
    assert await fault({"type": "string"}, there=UNKNOWN_COLUMNS, json_schema=own) is None


async def test_other_drafts():
    """`$schema` says which rules hold: draft 4 knows no `const`."""
    schema = {"properties": {"id": {"const": 5}}}

    assert await fault(GOOD["json"], json_schema=schema) is not None
    draft4 = {"$schema": "http://json-schema.org/draft-04/schema#", **schema}
    assert await fault(GOOD["json"], json_schema=draft4) is None


def test_nothing_is_ever_fetched(tmp_path: Path):
    """No host is asked, and no file is read."""
    (tmp_path / "there.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        host, port = server.getsockname()
        for uri in (f"http://{host}:{port}/schema.json", (tmp_path / "there.json").as_uri(), "there.json"):
            with pytest.raises(InvalidStep, match="can only refer to a part of it"):
                validate(json_schema={"properties": {"id": {"$ref": uri}}})
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "strin"}, r'at \["type"\]'),
        ({"properties": {"id": {"minimum": "5"}}}, r'at \["properties"\]\["id"\]\["minimum"\]'),
        ({"pattern": "("}, "regex"),
        ({"$ref": "#/$defs/nope"}, "does not exist"),
        ({"$schema": "http://nowhere.example/x"}, "nowhere"),
        ({"const": object()}, "can't be read"),
    ],
)
def test_a_wrong_schema_is_found_before_the_first_row(schema: dict[str, Any], message: str):
    """The message says where it is wrong."""
    with pytest.raises(InvalidStep, match=message):
        validate(json_schema=schema)


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), ("{", "isn't JSON"), ("[]", "isn't valid")])
def test_a_file_without_a_schema(tmp_path: Path, content: str | None, message: str):
    """Missing, no JSON, or no schema."""
    file = tmp_path / "schema.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InvalidStep, match=message):
        validate(json_schema_file=str(file))


# -- pydantic ------------------------------------------------------------------------------------


@pytest.mark.parametrize("carry", ["json", "text"])
async def test_rows_that_fit_a_model_pass_as_they_are(carry: str):
    """It gets instants and UUIDs as text, and reads them; rows aren't changed."""
    assert await fault(GOOD[carry], carry=carry, model=f"{MODELS}:Record") is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"amount": Raw("-1")}, "amount: greater_than_equal"),
        ({"amount": Raw("1234567890123456789012345678.01")}, None),
        ({"amount": Raw("1234567890123456789012345678.011")}, "amount: decimal_max_digits"),
        ({"email": "secret secret secret secret"}, "email: string_too_long"),
        ({"at": "secret"}, "at: datetime_from_date_parsing"),
        ({"address": Raw('{"zip": "secret"}')}, "address.zip: string_pattern_mismatch"),
        ({"address": Raw('{"zip": "1000", "secret": 1}')}, "address.*: extra_forbidden"),
        ({"address": Raw('{"zip": "1000", "notes": {"secret": "x"}}')}, "address.notes.*: int_parsing"),
        ({"id": 13}, "id: value_error"),
        ({"id": None}, "id: int_type"),
    ],
)
async def test_a_fault_says_which_field_breaks_which_rule(change: Row, reason: str | None):
    """By pydantic's names of rules; never the value, nor a name that stands only in the data."""
    assert await fault({**GOOD["json"], **change}, model=f"{MODELS}:Record") == reason


async def test_a_model_cannot_change_rows():
    """Whatever its validators do."""
    row: Row = {"doc": {"a": 1}}

    assert await fault(row, there=UNKNOWN_COLUMNS, model=f"{MODELS}:Meddling") is None
    assert row == {"doc": {"a": 1}}


@pytest.mark.parametrize(("number", "error"), [(14, "RuntimeError"), (15, "SystemExit"), (16, "KeyboardInterrupt")])
async def test_a_bug_in_a_model_is_no_row_error(number: int, error: str):
    """Only ValueError and AssertionError speak about the row; the value isn't told."""
    with pytest.raises(StepFailed, match=f"Record raised {error}") as raised:
        await fault({**GOOD["json"], "id": number}, model=f"{MODELS}:Record")
    assert str(number) not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"{MODELS}:Nope", "Nope"),
        (f"{MODELS}:Plain", "needs a pydantic model"),
        (f"{MODELS}:Annotated", "needs a pydantic model"),
        ("no_such_module_at_all:Record", "ModuleNotFoundError"),
    ],
)
def test_a_model_that_is_none(path: str, message: str):
    """Found before the first row is read."""
    with pytest.raises(InvalidStep, match=message):
        validate(model=path)


# -- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"json_schema": {}, "model": "a:b"},
        {"json_schema": {}, "json_schema_file": "x"},
        {"model": "no path"},
        {"json_schema": 5},
        {"schema": {}},
    ],
)
def test_one_of_the_three_is_named(options: dict[str, Any]):
    """Neither none nor two."""
    with pytest.raises(ValidationError):
        ValidateOptions.model_validate(options)
