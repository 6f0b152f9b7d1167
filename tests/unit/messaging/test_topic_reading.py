"""Topics read from the side: single places, and backwards."""

from collections.abc import Sequence
from datetime import timedelta
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.messaging import topic_reading
from pipeline_processing.messaging.port import Offsets, Outgoing, Record
from pipeline_processing.messaging.topic_reading import age, newest, place_of, reading, records_at
from tests.memory.broker import MemoryBroker
from tests.unit.stepped_clock import START, SteppedClock


class CountingBroker(MemoryBroker):
    """Knows how often, and how much, it was read."""

    def __init__(self, *, partitions: int = 3) -> None:
        self.clock = SteppedClock()
        super().__init__(clock=self.clock, topics=["t"], partitions=partitions)
        self.read_records = 0
        self.reads = 0

    def fill(self, keys: Sequence[int]) -> None:
        """A record a second, of these keys."""
        for n, key in enumerate(keys):
            self.clock.pass_(1)
            self.put(Outgoing("t", str(key).encode(), str(n).encode()))

    async def read(self, topic: str, *, start: Offsets | None = None, stop: Offsets | None = None):  # type: ignore[no-untyped-def]
        self.reads += 1
        async for record in super().read(topic, start=start, stop=stop):
            self.read_records += 1
            yield record


@pytest.mark.parametrize(("text", "place"), [("0:0", (0, 0)), ("3:77", (3, 77)), ("03:007", (3, 7))])
def test_a_place_is_partition_and_offset(text: str, place: tuple[int, int]) -> None:
    """As lists print it."""
    assert place_of(text) == place


@pytest.mark.parametrize("text", ["", "3", "3:", ":3", "-1:3", "3:-1", "3:7:7", "a:b", "٣:٧", "3: 7", f"0:{'9' * 19}"])
def test_anything_else_is_no_place(text: str) -> None:
    """And nothing is guessed."""
    with pytest.raises(ValueError, match=r"isn't partition:offset, such as 3:77"):
        place_of(text)


KEYS = st.lists(st.integers(0, 9), max_size=60)
PLACES = st.sets(st.tuples(st.integers(0, 4), st.integers(0, 40)), max_size=10)


@given(KEYS, PLACES, st.integers(0, 12), st.sampled_from([1, 5, 1000]))
async def test_records_at_are_those_that_are_there(
    keys: list[int], places: set[tuple[int, int]], expired: int, near: int
) -> None:
    """Whatever retention took and whatever never was; few reads, however many places."""
    broker = CountingBroker()
    broker.fill(keys)
    broker.partition("t", 0).expire(expired)

    with patch.object(topic_reading, "_NEAR", near):
        found = await records_at(broker, "t", places)

    there = {(record.partition, record.offset): record for record in broker.records("t")}
    assert found == {place: there[place] for place in places if place in there}
    if near == 1000:
        assert broker.reads <= 1


async def test_far_places_are_read_apart() -> None:
    """What lies between isn't read, in all partitions at once."""
    broker = CountingBroker(partitions=2)
    broker.fill([n % 10 for n in range(200)])
    ends = await broker.ends("t")

    with patch.object(topic_reading, "_NEAR", 10):
        await records_at(broker, "t", [place for p in ends for place in ((p, 0), (p, 5), (p, ends[p] - 1))])

    assert broker.reads == 2
    assert broker.read_records == 2 * (6 + 1)


async def test_reading_passes_over_other_partitions() -> None:
    """Only those that have a start are read."""
    broker = CountingBroker()
    broker.fill(range(30))
    stop = await broker.ends("t")

    async with reading(broker, "t", start={1: 2}, stop=stop) as records:
        assert {record.partition for record in [r async for r in records]} == {1}
    assert broker.read_records == stop[1] - 2


@given(KEYS, st.integers(1, 20), st.none() | st.integers(0, 60), st.sampled_from([1, 2, 500]), st.integers(0, 12))
async def test_the_newest_are_those_at_the_end(
    keys: list[int], limit: int, since: int | None, window: int, expired: int
) -> None:
    """As if all had been read and sorted; whatever the windows that it is read by."""
    broker = CountingBroker()
    broker.fill(keys)
    broker.partition("t", 0).expire(expired)
    moment = None if since is None else START + timedelta(seconds=since)

    def keep(record: Record) -> Record | None:
        return record if record.value and int(record.value) % 3 else None

    with patch.object(topic_reading, "_LEAST_WINDOW", window):
        found = await newest(broker, "t", limit=limit, since=moment, keep=keep)

    all_kept = sorted(filter(keep, broker.records("t")), key=age, reverse=True)
    if moment is not None:
        all_kept = [record for record in all_kept if record.timestamp_ms >= moment.timestamp() * 1000]
    assert found == all_kept[:limit]


async def test_the_newest_of_a_long_topic_are_read_from_its_end() -> None:
    """Not the whole of it."""
    broker = CountingBroker()
    broker.fill([n % 10 for n in range(9000)])

    found = await newest(broker, "t", limit=5, since=None, keep=lambda record: record)

    assert [record.value for record in found] == [str(n).encode() for n in range(8999, 8994, -1)]
    assert broker.read_records == 3 * 500
