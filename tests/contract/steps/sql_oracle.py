"""Rows of a table as steps see them, in both forms, and what Postgres makes of expressions over the same rows."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from pipeline_processing.kinds import text_of
from pipeline_processing.ports import Rows
from pipeline_processing.rows.columns import Columns
from pipeline_processing.steps.derive import Derive
from pipeline_processing.steps.step import Batch
from tests.contract.source.reading import postgres, postgres_source, reading
from tests.unit.steps.step_context import CollectedErrors, context

ERROR = "row error"
"""What stands for the value of a row that has none."""

Answer = str | None

_ANSWER = """
CREATE FUNCTION pg_temp.answer(expression text, row_id int) RETURNS text[] AS $$
DECLARE answer text[];
BEGIN
    EXECUTE format('SELECT %s FROM (SELECT (%s) AS value FROM things WHERE id = $1) AS one',
        'ARRAY[{text}, {json}]', expression) INTO answer USING row_id;
    RETURN answer;
EXCEPTION WHEN data_exception OR feature_not_supported THEN
    RETURN ARRAY['{error}', '{error}'];
END $$ LANGUAGE plpgsql
"""
_TEXT = "CASE WHEN value IS NOT NULL THEN format('%s', value) END"
_JSON = "CASE WHEN pg_typeof(value)::text IN ('json', 'jsonb') THEN value::text ELSE to_json(value) #>> '{}' END"


@dataclass(frozen=True, slots=True)
class Oracle:
    """The table `things`, whose rows are numbered by `id` from 0."""

    runner: asyncio.Runner = field(repr=False)
    connection: asyncpg.Connection = field(repr=False)
    carried: Mapping[str, tuple[Columns, Rows]] = field(repr=False)
    """By form: "json" or "text"."""

    def rows(self, carry: str) -> Rows:
        return [dict(row) for row in self.carried[carry][1]]

    # -- conditions --------------------------------------------------------------------------

    def kept(self, condition: str) -> list[int]:
        """Ids of the rows that WHERE keeps."""
        rows = self.runner.run(self.connection.fetch(f"SELECT id FROM things WHERE {condition} ORDER BY id"))
        return [row["id"] for row in rows]

    # -- expressions -------------------------------------------------------------------------

    def answers(self, expression: str) -> dict[str, list[Answer]]:
        """By form, the expression's value for each row, as text. Raises PostgresError if Postgres has none for any."""
        values = f"SELECT id, ({expression}) AS value FROM things"
        query = f"SELECT {_TEXT} AS text, {_JSON} AS json FROM ({values}) AS all_of_them ORDER BY id"
        try:
            rows = self.runner.run(self.connection.fetch(query))
        except (asyncpg.DataError, asyncpg.FeatureNotSupportedError):
            each = "SELECT pg_temp.answer($1, id) AS answer FROM things ORDER BY id"
            rows = self.runner.run(self.connection.fetch(each, expression))
            rows = [{"text": row["answer"][0], "json": row["answer"][1]} for row in rows]
        return {form: [row[form] for row in rows] for form in ("text", "json")}

    def type_of(self, expression: str) -> str:
        """The name of its type in Postgres."""
        prepared = self.runner.run(self.connection.prepare(f"SELECT {expression} FROM things"))
        return str(prepared.get_attributes()[0].type.name)

    def derived(self, expression: str, carry: str) -> tuple[list[Answer], Columns]:
        """What the step `derive` says, and the columns after it."""
        columns, _ = self.carried[carry]
        errors = CollectedErrors()
        step = Derive({"derived": expression}, context(columns, carry=carry, row_errors=errors))
        after = self.runner.run(step(Batch.read(self.rows(carry), first=1)))
        answers = {int(row["id"]): row["derived"] for row in after.rows}
        faults = {number - 1: ERROR for number, _, _ in errors.rejected if number is not None}
        assert len(answers) + len(faults) == len(self.carried[carry][1])
        texts = {place: None if value is None else _text(value, carry) for place, value in answers.items()}
        return [text for _, text in sorted({**texts, **faults}.items())], step.columns


def _text(value: Any, carry: str) -> str:
    return value if carry == "text" else text_of(value)


@contextmanager
def oracle(dsn: str, table: str) -> Iterator[Oracle]:
    """`table` are statements that make and fill the table `things`."""
    with asyncio.Runner() as runner:
        opening = _opened(dsn, table, runner)
        yield runner.run(opening.__aenter__())
        runner.run(opening.__aexit__(None, None, None))


@asynccontextmanager
async def _opened(dsn: str, table: str, runner: asyncio.Runner) -> AsyncIterator[Oracle]:
    async with postgres(dsn) as connection, postgres_source(dsn) as source:
        await connection.execute(table)
        await connection.execute(
            _ANSWER.replace("{text}", _quoted(_TEXT)).replace("{json}", _quoted(_JSON)).replace("{error}", ERROR)
        )
        carried = {}
        for form in ("json", "text"):
            async with reading(source, "SELECT * FROM things ORDER BY id", carry=form) as batches:
                carried[form] = (batches.columns, [row async for batch in batches for row in batch])
        yield Oracle(runner=runner, connection=connection, carried=carried)


def _quoted(sql: str) -> str:
    """As it stands inside a string literal, and inside the pattern of format()."""
    return sql.replace("'", "''")
