"""Names are data: whatever stands in them, they name what they name."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pipeline_processing.model import FormatName
from pipeline_processing.postgres.identifiers import quoted
from tests.contract.postgres_destination.warehouse import (
    LOADED_FORMATS,
    METADATA,
    Warehouse,
    content,
    stage,
    warehouse_in,
)

NAMES = (
    'a "b"; DROP TABLE victim; --',
    "it's $1 and $2 :run_id",
    "{staging} {0} {columns!r} %I %s",
    "ключ 🦉 \\ \n\t",
    "SELECT",
    "r",
)
every_name = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(params=NAMES)
async def odd(request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[Warehouse]:
    """A warehouse whose schema has that name."""
    async with warehouse_in(dsn, request.param) as opened:
        yield opened


async def load_everywhere(warehouse: Warehouse, name: str, form: FormatName) -> None:
    """A dataset, a table and all of its columns with names made of that one; a second load replaces the first."""
    key, value, agency = f"k{name}", name, f"a{name}"
    table = quoted(name)
    await warehouse.execute(
        "CREATE TABLE victim (a int);"
        f"CREATE TABLE {table} ({quoted(key)} int PRIMARY KEY, {quoted(value)} text, {quoted(agency)} text);"
        f"INSERT INTO {table} VALUES (1, 'old', '7'), (9, 'theirs', '8')"
    )
    for number, mode in enumerate(("merge", "replace", "append")):
        destination = warehouse.destination(mode=mode, key=[key], tables={"data $1": name}, agency_column=agency)
        await destination.check(["data $1"])
        row = f"SELECT {number + 1} AS {quoted(key)}, {quoted(mode)[1:-1]!r} AS {quoted(value)}"
        body = await warehouse.written(row, form)
        metadata = {**METADATA, "run-id": f"r-{mode}"}
        for known in (True, False) if mode == "replace" else (True,):
            artifact = await stage(
                destination,
                body,
                content((key, value) if known else None, form, dataset="data $1"),
                rows=1,
                metadata=metadata,
            )
            if known:
                await destination.complete(artifact, metadata=metadata)
            else:
                [upload] = [each async for each in destination.pending_uploads()]
                await destination.abort(upload)
        left = await warehouse.rows(f"SELECT * FROM {table} ORDER BY 1")
        assert (
            left
            == {
                "merge": [(1, "merge", "7"), (9, "theirs", "8")],
                "replace": [(2, "replace", "7"), (9, "theirs", "8")],
                "append": [(2, "replace", "7"), (3, "append", "7"), (9, "theirs", "8")],
            }[mode]
        )
    assert await warehouse.rows("SELECT FROM victim") == []
    assert await warehouse.staging() == []
    await warehouse.execute(f"DROP TABLE victim, {table}")


@every_name
async def test_of_tables_columns_and_datasets(warehouse: Warehouse, name: str) -> None:
    """In every statement, in both formats."""
    for form in LOADED_FORMATS:
        await load_everywhere(warehouse, name, form)
        await warehouse.execute("TRUNCATE pipeline_loads")


async def test_of_schemas(odd: Warehouse) -> None:
    """Also where the tables of loads are made."""
    for form in LOADED_FORMATS:
        await load_everywhere(odd, "records", form)
        await odd.execute("TRUNCATE pipeline_loads")
    assert odd.schema not in odd.destination().url or odd.schema.isalpha()
