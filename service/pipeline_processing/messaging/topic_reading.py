"""Topics read from the side: the records at given places, and the newest ones."""

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
"""Offsets apart: to read over so many records is quicker than to begin anew behind them."""
_LEAST_WINDOW = 500


def place_of(text: str) -> Place:
    """`3:77`, partition and offset. Raises ValueError."""
    match = _PLACE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} isn't partition:offset, such as 3:77")
    return int(match[1]), int(match[2])


@asynccontextmanager
async def reading(topics: Topics, topic: str, *, start: Offsets, stop: Offsets) -> AsyncIterator[AsyncIterator[Record]]:
    """`Topics.read` of the partitions in `start` only, for the length of a block."""
    unwanted = {partition: end for partition, end in stop.items() if partition not in start}
    records = topics.read(topic, start={**unwanted, **start}, stop=stop)
    try:
        yield records
    finally:
        if isinstance(records, AsyncGenerator):  # or it would be left to the garbage collector
            await records.aclose()


async def records_at(topics: Topics, topic: str, places: Iterable[Place]) -> dict[Place, Record]:
    """Those of these records that are there. They should be few: all of them are kept."""
    ends = await topics.ends(topic)
    wanted = {(partition, offset) for partition, offset in places if offset < ends.get(partition, 0)}
    offsets = defaultdict[int, list[int]](list)
    for partition, offset in sorted(wanted):
        offsets[partition].append(offset)
    stretches = [[(partition, *stretch) for stretch in _stretches(of)] for partition, of in offsets.items()]
    found: dict[Place, Record] = {}
    # As few rounds as there are stretches in a partition: each round is a consumer of its own.
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
    The newest records, the very newest first. `keep` says which count, and what is kept of each; a topic is read
    backwards, so that it needn't be read in full.
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
    """The greater, the newer; no two records of a topic have the same."""
    return record.timestamp_ms, record.partition, record.offset


def _stretches(offsets: list[int]) -> list[tuple[int, int]]:
    """Sorted offsets → the stretches to be read, each up to but not including its end."""
    stretches: list[tuple[int, int]] = []
    for offset in offsets:
        if stretches and offset - stretches[-1][1] <= _NEAR:
            stretches[-1] = (stretches[-1][0], offset + 1)
        else:
            stretches.append((offset, offset + 1))
    return stretches
