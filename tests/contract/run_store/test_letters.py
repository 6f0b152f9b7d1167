"""Dead letters that Kafka refuses for good: kept byte for byte, once each, and found again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline_processing.errors import HistoryOutdated, InvalidRequest
from pipeline_processing.messaging.dead_letters import STORED, DeadLetter, LetterStore, dead_letter
from pipeline_processing.messaging.port import Headers, Outgoing, Record
from pipeline_processing.telemetry.masking import Mask
from tests.contract.run_store.conftest import Backend, PostgresBackend

ANY = InvalidRequest("a NUL \0 and half of a pair \ud800")


@pytest.fixture
def letters(backend: Backend) -> LetterStore:
    return backend.letters


def request(offset: int = 0, **fields: Any) -> Record:
    return Record(
        **{
            "topic": "requests",
            "partition": 3,
            "offset": offset,
            "timestamp_ms": 1_700_000_000_000,
            "key": b"7",
            "value": b"{",
            **fields,
        }
    )


def letter(record: Record) -> Outgoing:
    return dead_letter(record, ANY, topic="dead-letters", now=datetime.now(UTC), mask=Mask())


async def kept(letters: LetterStore, **options: Any) -> list[Record]:
    return [record async for record in letters.kept(**options)]


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (b"7", b"{", ()),
        (None, None, (("none", None), ("empty", b""))),
        (b"\0\xff", b"\0\xff", (("a\0é", b"\0\xff"), ("a\0é", b"2"))),
        (b"", b"x" * 1_000_000, ()),
    ],
)
async def test_a_letter_is_kept_byte_for_byte(
    letters: LetterStore, key: bytes | None, value: bytes | None, headers: Headers
) -> None:
    """Whatever is in it, as it was refused, and the request can be told from it."""
    record = request(key=key, value=value, headers=headers)
    refused = letter(record)
    await letters.keep([refused])

    [found] = await kept(letters)

    assert (found.topic, found.partition, found.offset) == ("dead-letters", STORED, 1)
    assert (found.key, found.value, found.headers) == (refused.key, refused.value, refused.headers)
    told = DeadLetter.of(found)
    assert told is not None
    assert (told.place, told.original(timestamp_ms=0)) == ("db:1", record)
    assert await letters.numbered([1, 9]) == {1: found}


async def test_a_request_has_one_letter(letters: LetterStore) -> None:
    """However often it is put aside; another one that stands at its place in a topic made anew has its own."""
    again = request(timestamp_ms=1_800_000_000_000)
    await letters.keep([letter(request()), letter(request(1))])
    await letters.keep([letter(request()), letter(again), letter(request(1))])

    found = [DeadLetter.of(record) for record in await kept(letters)]

    assert [(each.offset, each.timestamp_ms) for each in found if each is not None] == [
        (0, 1_800_000_000_000),
        (1, 1_700_000_000_000),
        (0, 1_700_000_000_000),
    ]


async def test_letters_come_newest_first_and_from_a_moment_on(backend: Backend) -> None:
    """Also more of them than are read at once."""
    await backend.letters.keep([letter(request(offset)) for offset in range(45)])

    everything = await kept(backend.letters)

    assert [each.header("dlq_offset") for each in everything] == [str(n).encode() for n in reversed(range(45))]
    assert await kept(backend.letters, since=backend.now() - timedelta(minutes=1)) == everything
    assert await kept(backend.letters, since=backend.now() + timedelta(minutes=1)) == []
    assert (await backend.letters.numbered([3, 4])).keys() == {
        each.offset for each in everything if each.offset in (3, 4)
    }


async def test_two_processes_with_the_same_letters(letters: LetterStore) -> None:
    """After a rebalance both may have them, in any order: neither waits for the other for ever."""
    some = [letter(request(offset)) for offset in range(50)]

    await asyncio.gather(*(letters.keep(some[::step]) for step in (1, -1, 1, -1)))

    assert len(await kept(letters)) == 50


async def test_a_history_of_an_earlier_version_asks_for_migrate(on_postgres: PostgresBackend) -> None:
    """Rather than lose a letter."""
    await on_postgres.execute("DROP TABLE dead_letters")

    with pytest.raises(HistoryOutdated):
        await on_postgres.letters.keep([letter(request())])
