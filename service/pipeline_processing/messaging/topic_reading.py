"""Read single records of topics: those at given places, or the newest ones."""

import heapq
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import zip_longest

from pipeline_processing.messaging.port import Offsets, Record, Topics

Place = tuple[int, int]
"""Partition and offset."""

_PLACE = re.compile(r"([0-9]{1,9}):([0-9]{1,18})")
_START_OF_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_NEAR = 1_000
"""Largest gap, in offsets, that is faster to read through than to skip with another consumer."""
_LEAST_WINDOW = 500


def place_of(text: str) -> Place:
    """Parse `partition:offset`, such as `3:77`. Raises ValueError."""
    match = _PLACE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} isn't partition:offset, such as 3:77")
    return int(match[1]), int(match[2])


@asynccontextmanager
async def reading(topics: Topics, topic: str, *, start: Offsets, stop: Offsets) -> AsyncIterator[AsyncIterator[Record]]:
    """Like `Topics.read`, but only for the partitions in `start`, and closed at the end of the block."""
    unwanted = {partition: end for partition, end in stop.items() if partition not in start}
    records = topics.read(topic, start={**unwanted, **start}, stop=stop)
    try:
        yield records
    finally:
        if isinstance(records, AsyncGenerator):  # otherwise the garbage collector would close it
            await records.aclose()


async def records_at(topics: Topics, topic: str, places: Iterable[Place]) -> dict[Place, Record]:
    """Return those of these records that exist. Holds all of them in memory, so ask for few."""
    ends = await topics.ends(topic)
    wanted = {(partition, offset) for partition, offset in places if offset < ends.get(partition, 0)}
    offsets = defaultdict[int, list[int]](list)
    for partition, offset in sorted(wanted):
        offsets[partition].append(offset)
    stretches = [[(partition, *stretch) for stretch in _stretches(of)] for partition, of in offsets.items()]
    found: dict[Place, Record] = {}
    # Each round opens a consumer, so read one stretch of every partition per round.
    for at_once in zip_longest(*stretches):
        start = {each[0]: each[1] for each in at_once if each is not None}
        stop = {**ends, **{each[0]: each[2] for each in at_once if each is not None}}
        async with reading(topics, topic, start=start, stop=stop) as records:
            async for record in records:
                if (record.partition, record.offset) in wanted:
                    found[record.partition, record.offset] = record
    return found


async def newest(
    topics: Topics, topic: str, *, limit: int, since: datetime | None, keep: Callable[[Record], Record | None]
) -> list[Record]:
    """
    Return the newest records, newest first. `keep` returns what to keep of a record, or None to skip it. The topic is
    read backwards, so usually not in full.
    """
    ends = await topics.ends(topic)
    floors = await topics.offsets_at(topic, since or _START_OF_TIME)
    found = defaultdict[int, list[Record]](list)
    left = {partition: end for partition, end in ends.items() if floors.get(partition, 0) < end}
    window = max(limit, _LEAST_WINDOW)
    while left:
        start = {partition: max(floors.get(partition, 0), stop - window) for partition, stop in left.items()}
        older = defaultdict[int, list[Record]](list)
        async with reading(topics, topic, start=start, stop={**ends, **left}) as records:
            async for record in records:
                kept = keep(record)
                if kept is not None:
                    older[record.partition].append(kept)
                    del older[record.partition][:-limit]
        for partition, records_before in older.items():
            found[partition] = (records_before + found[partition])[-limit:]
        left = {
            partition: offset
            for partition, offset in start.items()
            if len(found[partition]) < limit and offset > floors.get(partition, 0)
        }
        window *= 4
    return heapq.nlargest(limit, (record for of in found.values() for record in of), key=age)


def age(record: Record) -> tuple[int, int, int]:
    """Sort key: newer records have greater ones, and no two records of a topic have the same."""
    return record.timestamp_ms, record.partition, record.offset


def _stretches(offsets: list[int]) -> list[tuple[int, int]]:
    """Group sorted offsets into stretches to read, each up to but not including its end."""
    stretches: list[tuple[int, int]] = []
    for offset in offsets:
        if stretches and offset - stretches[-1][1] <= _NEAR:
            stretches[-1] = (stretches[-1][0], offset + 1)
        else:
            stretches.append((offset, offset + 1))
    return stretches
