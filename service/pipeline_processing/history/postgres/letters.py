"""Dead letters in the run history's database. The SQL is in `letters.sql`."""

from collections.abc import AsyncGenerator, Collection, Sequence
from datetime import datetime
from typing import Any

from pipeline_processing.history.postgres.database import PostgresPort
from pipeline_processing.messaging.dead_letters import STORED, DeadLetter
from pipeline_processing.messaging.port import Outgoing, Record
from pipeline_processing.postgres.queries import load_queries

QUERIES = load_queries(__package__, "letters.sql")

_AT_ONCE = 20
"""How many letters are read per query. Each may take a megabyte."""
_BEYOND = 2**63 - 1


class PostgresLetters(PostgresPort):
    """`LetterStore` on Postgres."""

    async def keep(self, letters: Sequence[Outgoing]) -> None:
        async with self._database.transaction() as connection:
            # In a fixed order, so that two processes with the same letters can't deadlock.
            for columns in sorted(map(_columns, letters), key=lambda each: (each["partition"], each["offset"])):
                await connection.execute(*QUERIES["keep_letter"](**columns))

    async def kept(self, *, since: datetime | None = None) -> AsyncGenerator[Record, None]:
        before = _BEYOND
        while True:
            rows = await self._database.rows(QUERIES["kept_letters"], before=before, since=since, limit=_AT_ONCE)
            for row in rows:
                yield _record_of(row)
            if len(rows) < _AT_ONCE:
                return
            before = rows[-1]["number"]

    async def numbered(self, numbers: Collection[int]) -> dict[int, Record]:
        rows = await self._database.rows(QUERIES["numbered_letters"], numbers=list(numbers))
        return {row["number"]: _record_of(row) for row in rows}


def _columns(letter: Outgoing) -> dict[str, Any]:
    read = DeadLetter.of(Record(letter.topic, STORED, 0, 0, letter.key, letter.value, letter.headers))
    assert read is not None, letter
    return {
        "reason": read.reason,
        "topic": read.topic,
        "partition": read.partition,
        "offset": read.offset,
        "timestamp_ms": read.timestamp_ms,
        "letters_topic": letter.topic,
        "key": letter.key,
        "value": letter.value,
        "header_names": [name.encode() for name, _ in letter.headers],
        "header_values": [value for _, value in letter.headers],
    }


def _record_of(row: Any) -> Record:
    return Record(
        topic=row["letters_topic"],
        partition=STORED,
        offset=row["number"],
        timestamp_ms=round(row["put_aside_at"].timestamp() * 1000),
        key=row["key"],
        value=row["value"],
        headers=tuple(
            (name.decode(), value) for name, value in zip(row["header_names"], row["header_values"], strict=True)
        ),
    )
