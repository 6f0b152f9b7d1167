"""What every source has to do alike: one suite for all of them."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from msgspec import Raw

from pipeline_processing.errors import QueryInvalid, SourceDataInvalid
from tests.contract.source.source_backends import (
    COLUMNS,
    Backend,
    Values,
    http_backend,
    postgres_backend,
    read,
    reading,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

both_forms = pytest.mark.parametrize("carry", ["json", "text"])


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["postgres", "http"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    opened = http_backend() if request.param == "http" else postgres_backend(request.getfixturevalue("dsn"))
    async with opened as ready:
        yield ready


def row(number: int, *, agency: int = 7, name: str | None = "n", **values: str | None) -> Values:
    """A row of an agency, null in all other columns."""
    given: dict[str, str | None] = {"id": str(number), "agency": str(agency), "name": name, **values}
    return [given.get(column) for column in COLUMNS]


SEVEN = {"agency_id": 7}


# -- rows ----------------------------------------------------------------------------------------


@both_forms
async def test_rows_in_order_and_only_the_agencys(carry: str, backend: Backend):
    """All rows that the options ask for, each once and in order, and nobody else's; in batches of up to a thousand."""
    await backend.fill([row(number, agency=7 + number % 2) for number in range(7000)])

    async with reading(backend.source, backend.options(), SEVEN, carry=carry) as batches:
        read_batches = [batch async for batch in batches]

    assert [int(each["id"]) for batch in read_batches for each in batch] == list(range(0, 7000, 2))
    assert {str(each["agency"]) for batch in read_batches for each in batch} == {"7"}
    assert all(0 < len(batch) <= 1000 for batch in read_batches)


@both_forms
async def test_no_rows(carry: str, backend: Backend):
    """An agency without rows has no batch, and isn't an error."""
    await backend.fill([row(1, name="other")])

    assert await read(backend.source, backend.options(where="x"), {**SEVEN, "x": "none such"}, carry=carry) == []


async def test_columns_are_known_before_rows(backend: Backend):
    """Names, order and kinds, and that nothing has changed the values yet."""
    await backend.fill([])
    async with (
        backend.source.snapshot({"records": backend.options()}) as snapshot,
        snapshot.records("records", SEVEN, carry="json") as batches,
    ):
        columns = snapshot.columns("records", carry="json")

        assert columns.complete
        assert columns.names == batches.columns.names == tuple(COLUMNS)
        assert [column.kind for column in columns] == [kind for _, kind in COLUMNS.values()]
        assert all(column.origins == {column.name} and column.unchanged for column in columns)


async def test_the_snapshots_time(backend: Backend):
    """The time from which on the rows are read."""
    before = datetime.now(UTC)
    async with backend.source.snapshot({"records": backend.options()}) as snapshot:
        assert before - timedelta(seconds=5) <= snapshot.taken_at <= datetime.now(UTC) + timedelta(seconds=5)
        assert snapshot.taken_at.tzinfo is not None


async def test_records_are_in_the_order_of_the_columns(backend: Backend):
    """Each with one value per column; after the last batch there is none."""
    await backend.fill([row(number) for number in range(2500)])

    async with (
        backend.source.snapshot({"records": backend.options()}) as snapshot,
        snapshot.records("records", SEVEN, carry="json") as batches,
    ):
        got = [record async for batch in batches for record in batch]
        with pytest.raises(StopAsyncIteration):
            await anext(batches)

    assert [(record[0], len(record)) for record in got] == [(number, len(COLUMNS)) for number in range(2500)]


async def test_several_datasets_one_after_the_other(backend: Backend):
    """A snapshot reads each of its datasets, also one twice, in both forms."""
    await backend.fill([row(number) for number in range(10)])
    datasets = {"a": backend.options(), "b": backend.options(where="x")}
    counts = []
    async with backend.source.snapshot(datasets) as snapshot:
        for name, carry in (("a", "json"), ("b", "text"), ("a", "text")):
            async with snapshot.records(name, {**SEVEN, "x": "n"}, carry=carry) as batches:
                counts.append(sum([len(batch) async for batch in batches]))

    assert counts == [10, 10, 10]


@both_forms
@pytest.mark.parametrize("batches_before", [0, 1, 2])
async def test_leaving_early(batches_before: int, carry: str, backend: Backend):
    """Whoever has enough rows leaves, with a batch under way or not, and the source is as good as before."""
    await backend.fill([row(number, name="x" * 100) for number in range(5000)])
    for _ in range(3):
        async with reading(backend.source, backend.options(), SEVEN, carry=carry) as batches:
            for _ in range(batches_before):
                assert await anext(batches)

    async def fail_after_one() -> None:
        async with reading(backend.source, backend.options(), SEVEN, carry=carry) as batches:
            await anext(batches)
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        await fail_after_one()
    assert len(await read(backend.source, backend.options(), SEVEN, carry=carry)) == 5000


# -- values --------------------------------------------------------------------------------------

EXACT: dict[str, dict[str, str]] = {
    "text of all scripts": {"name": "é\n\t\"'\\ 😀 \u202e <&> ٣"},
    "empty text": {"name": ""},
    "the largest integer": {"id": str(2**63 - 1)},
    "the smallest integer": {"id": str(-(2**63))},
    "a number's last zero": {"amount": "0.10"},
    "a number of 40 digits": {"amount": "1234567890123456789012345678901234567890.0123456789"},
    "a large number": {"amount": "1" + "0" * 400},
    "a small number": {"amount": "-0.0000000000000000000000001"},
    "a float": {"ratio": "0.1"},
    "a boolean": {"active": "t"},
    "another boolean": {"active": "f"},
    "a date": {"day": "2024-02-29"},
    "a time": {"at": "2026-01-18 10:00:00.5"},
    "a time to the microsecond": {"at": "0001-01-01 00:00:00.000001"},
    "a time with its zone": {"seen": "2026-01-18 10:00:00+00"},
    "a uuid": {"ref": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
    "a document": {"attributes": '{"a": [1.50, null, {"b": "é"}], "c": 100000000000000000000}'},
    "a document that is text": {"attributes": '"x"'},
    "an empty document": {"attributes": "{}"},
    "nothing": {},
}


@pytest.mark.parametrize("values", EXACT.values(), ids=EXACT)
async def test_values_as_text(values: dict[str, str], backend: Backend):
    """Carried as text, a value is just what was put in."""
    given = row(1, **values)
    await backend.fill([given])

    [got] = await read(backend.source, backend.options(), SEVEN, carry="text")

    assert list(got.values()) == list(given)


@pytest.mark.parametrize("values", EXACT.values(), ids=EXACT)
async def test_values_as_json(values: dict[str, str], backend: Backend):
    """Carried for JSON, a value is exact: numbers and documents as fragments, times with a `T`."""
    given = row(1, **values)
    await backend.fill([given])

    [got] = await read(backend.source, backend.options(), SEVEN, carry="json")

    for (name, (_, kind)), text in zip(COLUMNS.items(), given, strict=True):
        value = got[name]
        if text is None:
            assert value is None
            continue
        match kind:
            case "integer":
                assert (type(value), value) == (int, int(text))
            case "number" | "float":
                assert (type(value), bytes(value).decode()) == (Raw, text)
            case "json":
                assert (type(value), bytes(value).decode().replace(" ", "")) == (Raw, text.replace(" ", ""))
            case "boolean":
                assert value is (text == "t")
            case "timestamptz":
                assert value == text.replace(" ", "T") + ":00"
            case _:
                assert value == (text.replace(" ", "T") if kind == "timestamp" else text)


# -- arguments -----------------------------------------------------------------------------------


async def test_an_unknown_argument(backend: Backend):
    """What is missing, and what there is; nothing is asked."""
    with pytest.raises(QueryInvalid, match=r"'records'.*'x'.*agency_id.*--param x=VALUE") as raised:
        await read(backend.source, backend.options(where="x"), SEVEN)

    assert raised.value.exit_code == 65


INJECTIONS = [
    "'; DROP TABLE kept; --", "1 OR 1=1", "$1", "%s{0}", "{agency_id}", "{x}", "../8/rows", "..", "/", "//b.example/x",
    "http://b.example/", "a&name=n", "n&agency=8", "?x=1", "#x", "%2e%2e%2f", "%00", "a b+c", "\\", "\r\nX-Evil: 1",
    "@b.example", ";", "n\n", "🦉", "٣", "null", "*", "n%", "",
]  # fmt: skip


@pytest.mark.parametrize("text", INJECTIONS)
async def test_a_param_is_only_a_value(text: str, backend: Backend):
    """Whatever it holds, it is compared as it is: it finds its own row, not all of them, and does nothing else."""
    others = [row(number, name=name) for number, name in enumerate(("n", "x", "other"), 2) if name != text]
    await backend.fill([row(1, name=text), *others, row(9, agency=8, name=text)])

    rows = await read(backend.source, backend.options(where="x"), {**SEVEN, "x": text})

    assert [each["id"] for each in rows] == [1]
    assert await backend.intact()


@pytest.mark.parametrize("text", ["7 OR 1=1", "7/../8", "8/rows?", "..", "7;", "7#", "%38", "7\n8", "{agency_id}"])
async def test_an_agency_is_only_a_value(text: str, backend: Backend):
    """A number that isn't one finds no rows at all, let alone another agency's."""
    await backend.fill([row(1), row(2, agency=8)])
    with pytest.raises((QueryInvalid, SourceDataInvalid), match="'records'"):
        await read(backend.source, backend.options(), {"agency_id": text})


@pytest.mark.parametrize("value", [datetime(2026, 1, 18, tzinfo=UTC), 7, True])
async def test_arguments_of_other_types(value: Any, backend: Backend):
    """A time, a number or a boolean where text is compared is its text, not an error of the driver."""
    await backend.fill([row(1, name="true"), row(2, name="7"), row(3, name="n")])

    rows = await read(backend.source, backend.options(where="x"), {**SEVEN, "x": value})

    assert [each["id"] for each in rows] == ({True: [1], 7: [2]}.get(value, []) if isinstance(value, int) else [])
