"""What a source delivers on request makes the same artifacts as its records: of real values, by both readers."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from pipeline_processing.formats.formats import carry_of
from pipeline_processing.model import FormatName
from pipeline_processing.ports import Delivers
from pipeline_processing.rows.lines import Lines
from pipeline_processing.sources.postgres.source import PostgresSource
from tests.contract.source.reading import config, postgres_source
from tests.contract.source.torture import TEXTS
from tests.unit.agency_data_job.chains import open_chain

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOOKS = "tests.contract.source.hooks"
NUMBERS = ["0", "-1.50", "NaN", "Infinity", "-Infinity", "1e30", "123456789012345678901234567890.123456789", "0.1"]
TIMES = ["2026-01-18 10:00+00", "infinity", "-infinity", "0044-03-15 BC", "12026-01-18 10:00:00.123456+00"]
DOCUMENTS = ['{"a": [1, 2.50, {}], "NaN": ":NaN"}', '"text"', "null", "[]", '{"b": "\\u00e9 \\" , ; \\n"}']
QUERY = "SELECT id, text, number, float, moment, document, flag FROM sample ORDER BY id"


@pytest.fixture(scope="module")
def way() -> tuple[str, str]:
    return "copy", "direct"


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def sample(connection: asyncpg.Connection) -> None:
    """3,000 rows in which values of all kinds, and nulls, meet."""
    await connection.execute(
        "CREATE TABLE sample (id int, text text, number numeric, float float8, moment timestamptz, document jsonb, "
        "flag bool)"
    )

    def pick(values: Sequence[str], number: int) -> str | None:
        return [*values, None][number % (len(values) + 1)]

    kinds = [[text for text in TEXTS if "\0" not in text], NUMBERS, [*NUMBERS, "1e-300"], TIMES, DOCUMENTS, ["t", "f"]]
    names = ("text", "numeric", "float8", "timestamptz", "jsonb", "bool")
    rows = [(number, *(pick(values, number) for values in kinds)) for number in range(3000)]
    casts = ", ".join(f"${at}::text::{name}" for at, name in enumerate(names, 2))
    await connection.executemany(f"INSERT INTO sample VALUES ($1, {casts})", rows)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cursor(dsn: str) -> AsyncIterator[PostgresSource]:
    async with postgres_source(dsn, reader="cursor") as opened:
        yield opened


async def artifact(source: PostgresSource, steps: Sequence[Mapping[str, Any]], asks: bool, **options: Any) -> Any:
    """The bytes that a dataset becomes, and the rejected rows."""
    carry = carry_of(FormatName(options.get("format", "ndjson")))
    async with (
        source.snapshot({"records": config(QUERY)}) as snapshot,
        snapshot.records("records", {}, carry=carry) as batches,
        open_chain(*steps, columns=batches.columns, **options) as chain,
    ):
        if asks:
            assert isinstance(batches, Delivers)
            chain.ask(batches)
        written, rejected = chain.format.head(), []
        async for records in batches:
            for piece in chain.pieces(records):
                rows: Any = (await chain(piece)).rows
                if len(rows):
                    written += bytes(rows) if isinstance(rows, Lines) else chain.format.encode(rows)
                rejected += chain.rejected()
        return written, rejected


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [{"select": ["text", "float", "document"]}, {"rename": {"float": 'a "b"'}}, {"add": {"by": "x", "n": None}}],
        [{"filter": "number > 0 OR number IS NULL"}],
        [{"select": ["flag"]}, {"filter": "flag"}],
        [{"filter": "id % 3 = 0"}, {"mask": {"columns": ["text"], "using": "partial"}}],
        [{"filter": "flag"}, {"python": {"function": f"{HOOKS}:upper", "reads": ["text"]}}],
        [{"python": f"{HOOKS}:upper"}],
        [{"cast": {"text": "integer"}}],
    ],
    ids=lambda steps: "+".join(next(iter(step)) for step in steps) or "none",
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"format": "csv"},
        {"format": "csv", "csv": {"delimiter": "\t", "null": "NULL"}},
        {"on_row_error": "quarantine"},
    ],
    ids=["ndjson", "csv", "tsv", "quarantine"],
)
async def test_artifacts_are_the_same(
    source: PostgresSource, cursor: PostgresSource, steps: Sequence[Mapping[str, Any]], options: dict[str, Any]
):
    """To the byte, for each way out: lines, several columns as one value, all columns."""
    options = {"on_row_error": "skip", **options}
    expected = await artifact(cursor, steps, asks=False, **options)

    assert await artifact(source, steps, asks=False, **options) == expected
    assert await artifact(source, steps, asks=True, **options) == expected
