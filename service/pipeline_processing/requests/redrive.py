"""Look up dead letters, and send their requests again."""

import hashlib
import heapq
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime

from pipeline_processing.errors import (
    InvalidEvent,
    MessageRefused,
    MessageTooLarge,
    PlaceUnknown,
    RequestError,
    TopicMissing,
)
from pipeline_processing.messaging.dead_letters import STORED, DeadLetter, LetterStore
from pipeline_processing.messaging.port import Events, Headers, Offsets, Outgoing, Record, Topics
from pipeline_processing.messaging.topic_reading import Place, age, newest, place_of, reading, records_at
from pipeline_processing.requests.job_messages import is_named_by_its_place, received, resent

_BATCH = 1_000
_BATCH_BYTES = 8 * 1024 * 1024
_LEFT_OUT_BYTES = 1024 * 1024
"""Assumed size of a request whose letter has no value: the brokers' default limit."""


@dataclass(frozen=True, slots=True)
class Filter:
    """
    Selects dead letters: all, by reason and time, or by place. Letters in the database have the partition
    `STORED`.
    """

    reason: str | None = None
    since: datetime | None = None
    places: Collection[Place] = ()

    def includes(self, letter: DeadLetter) -> bool:
        """Return whether the letter's reason and time match."""
        since_ms = None if self.since is None else self.since.timestamp() * 1000
        return self.reason in (None, letter.reason) and (since_ms is None or letter.record.timestamp_ms >= since_ms)


def letter_place(text: str) -> Place:
    """Parse `3:77` (partition and offset) or `db:5` (a letter in the database). Raises ValueError."""
    match = re.fullmatch(r"db:([0-9]{1,18})", text)
    return place_of(text) if match is None else (STORED, int(match[1]))


class DeadLetters:
    """Reads dead letters from the topic, and from the database if Kafka refused them."""

    def __init__(self, *, topics: Topics, topic: str, kept: LetterStore | None) -> None:
        """`kept` is None if no history is configured."""
        self._topics = topics
        self._topic = topic
        self._kept = kept

    async def newest(self, wanted: Filter, *, limit: int) -> list[DeadLetter]:
        """Return letters, newest first, without their values, which may be long."""

        def keep(record: Record) -> Record | None:
            letter = DeadLetter.of(record)
            return replace(record, value=None) if letter is not None and wanted.includes(letter) else None

        records = await newest(self._topics, self._topic, limit=limit, since=wanted.since, keep=keep)
        stored: list[Record] = []
        async with aclosing(self._in_database(wanted)) as letters:
            async for found in letters:
                stored.append(replace(found.record, value=None))
                if len(stored) == limit:
                    break
        newest_of_both = heapq.nlargest(limit, [*records, *stored], key=age)
        return [each for record in newest_of_both if (each := DeadLetter.of(record)) is not None]

    async def at(self, places: Collection[Place]) -> list[DeadLetter]:
        """Return the letters at these places. Raises PlaceUnknown if any of them has none."""
        in_topic = [place for place in places if place[0] != STORED]
        records = await records_at(self._topics, self._topic, in_topic) if in_topic else {}
        if self._kept is not None and len(in_topic) < len(places):
            numbered = await self._kept.numbered([offset for partition, offset in places if partition == STORED])
            records |= {(STORED, number): record for number, record in numbered.items()}
        letters = {place: letter for place, record in records.items() if (letter := DeadLetter.of(record)) is not None}
        missing = [
            f"{'db' if partition == STORED else partition}:{offset}"
            for partition, offset in places
            if (partition, offset) not in letters
        ]
        if missing:
            raise PlaceUnknown(
                f"There is no dead letter at {', '.join(missing)}; retention may have removed it. "
                "`pipeline-processing dead-letters list` shows all dead letters, with their places."
            )
        return list(letters.values())

    async def ends(self) -> Offsets:
        """Return the end offset of each partition."""
        return await self._topics.ends(self._topic)

    async def read(self, wanted: Filter, *, stop: Offsets) -> AsyncGenerator[DeadLetter, None]:
        """Yield the selected letters. Reads the topic up to `stop`."""
        if wanted.places:
            for named in await self.at(wanted.places):
                yield named
            return
        start: Offsets = dict.fromkeys(stop, 0)
        if wanted.since is not None:
            start = await self._topics.offsets_at(self._topic, wanted.since)
        async with reading(self._topics, self._topic, start=start, stop=stop) as records:
            async for record in records:
                letter = DeadLetter.of(record)
                if letter is not None and wanted.includes(letter):
                    yield letter
        async with aclosing(self._in_database(wanted)) as letters:
            async for letter in letters:
                yield letter

    async def _in_database(self, wanted: Filter) -> AsyncGenerator[DeadLetter, None]:
        if self._kept is None:
            return
        async with aclosing(self._kept.kept(since=wanted.since)) as records:
            async for record in records:
                letter = DeadLetter.of(record)
                if letter is not None and wanted.includes(letter):
                    yield letter


# -- sending again -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Redriven:
    """The result of redriving one letter."""

    letter: DeadLetter
    run_id: str | None = None
    """The requested run; None if the request still can't be read, or it is an event."""
    topic: str | None = None
    """The upstream topic that an event was sent to."""
    obstacle: str | None = None
    """Why it couldn't be sent."""


class Redrive:
    """
    Sends the requests of dead letters again, unchanged. Of letters with the same content, only the newest is sent.
    Redriving twice makes no second run, because each request keeps its run id, even one derived from its first place.

    Events that no trigger could use are sent to their own topic, where each counts as another event.
    """

    def __init__(
        self,
        *,
        topics: Topics,
        events: Events,
        letters: DeadLetters,
        requests_topic: str,
        report: Callable[[Redriven], None],
    ) -> None:
        self._topics = topics
        self._events = events
        self._letters = letters
        self._requests_topic = requests_topic
        self._report = report
        self._sent: set[bytes] = set()
        self.repeated = 0
        """Number of letters with the same content as another."""

    async def run(self, wanted: Filter) -> None:
        """Send the selected letters, and report the result of each. Raises PlaceUnknown before sending any."""
        stop = await self._letters.ends()
        newest_of: dict[bytes, tuple[int, int, int]] = {}
        letters = 0
        async with aclosing(self._letters.read(wanted, stop=stop)) as found:
            async for letter in found:
                letters += 1
                identity = _identity(letter)
                newest_of[identity] = max(age(letter.record), newest_of.get(identity, age(letter.record)))
        self.repeated = letters - len(newest_of)
        # Read the letters again instead of keeping them: each may have a megabyte.
        batch: list[DeadLetter] = []
        size = 0
        async with aclosing(self._letters.read(wanted, stop=stop)) as found:
            async for letter in found:
                if newest_of.get(_identity(letter)) != age(letter.record):
                    continue
                batch.append(letter)
                size += _LEFT_OUT_BYTES if letter.left_out else len(letter.record.value or b"")
                if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                    await self._send(batch)
                    batch, size = [], 0
        await self._send(batch)

    async def _send(self, letters: Sequence[DeadLetter]) -> None:
        messages: list[tuple[DeadLetter, Record, Outgoing]] = []
        for letter, original in zip(letters, await self._originals(letters), strict=True):
            if original is None:
                gone = f"its value was too large for a dead letter, and is gone from {letter.topic}"
                self._report(Redriven(letter, obstacle=gone))
                continue
            message = self._message(letter, original)
            # If a redriven request became a letter again, both letters give the same message, although they differ.
            digest = _digest(message.key, message.value, message.headers)
            if digest in self._sent:
                self.repeated += 1
            else:
                self._sent.add(digest)
                messages.append((letter, original, message))
        try:
            await self._events.send([message for _, _, message in messages])
        except MessageRefused:
            for letter, original, message in messages:
                self._report(await self._sent_alone(letter, original, message))
        else:
            for letter, original, _ in messages:
                self._report(self._redriven(letter, original))

    def _message(self, letter: DeadLetter, original: Record) -> Outgoing:
        if self._is_event(letter):
            return Outgoing(topic=letter.topic, key=original.key, value=original.value, headers=original.headers)
        return resent(original, topic=self._requests_topic)

    def _redriven(self, letter: DeadLetter, original: Record) -> Redriven:
        if self._is_event(letter):
            return Redriven(letter, topic=letter.topic)
        return Redriven(letter, run_id=_run_id(original))

    def _is_event(self, letter: DeadLetter) -> bool:
        """Whether `triggers` has put it aside. As a request, it would mean something else."""
        return letter.reason == InvalidEvent.kind and letter.topic != self._requests_topic

    async def _sent_alone(self, letter: DeadLetter, original: Record, message: Outgoing) -> Redriven:
        try:
            await self._events.send([message])
        except MessageTooLarge:
            return Redriven(letter, obstacle=f"it is larger than {message.topic} takes")
        except MessageRefused as error:
            return Redriven(letter, obstacle=str(error))
        return self._redriven(letter, original)

    async def _originals(self, letters: Sequence[DeadLetter]) -> list[Record | None]:
        """Return the letters' original requests, looked up in their topics if needed; None for each that is gone."""
        places: defaultdict[str, set[Place]] = defaultdict(set)
        for letter in letters:
            timeless = letter.timestamp_ms is None and is_named_by_its_place(letter.original(timestamp_ms=0))
            if letter.left_out or timeless:
                places[letter.topic].add((letter.partition, letter.offset))
        there: dict[tuple[str, Place], Record] = {}
        for topic, wanted in places.items():
            try:
                found = await records_at(self._topics, topic, wanted)
            except TopicMissing:
                continue
            there |= {(topic, place): record for place, record in found.items()}
        return [_original(letter, there.get((letter.topic, (letter.partition, letter.offset)))) for letter in letters]


def _original(letter: DeadLetter, there: Record | None) -> Record | None:
    """`there` is the record now at the request's original place. It is another one if the topic was recreated."""
    if letter.left_out:
        same_time = there is not None and letter.timestamp_ms in (None, there.timestamp_ms)
        same_key = there is not None and (letter.key_left_out or there.key == letter.original_key)
        return there if same_time and same_key else None
    same = there is not None and (there.key, there.value, there.headers) == (
        letter.original_key,
        letter.record.value,
        letter.original_headers,
    )
    # A run id derived from the place includes the time, which letters of the first version lack. If retention has
    # removed the request, any constant time will do.
    return letter.original(timestamp_ms=there.timestamp_ms if same and there is not None else 0)


def _identity(letter: DeadLetter) -> bytes:
    if letter.left_out:
        return _digest(letter.record.key, f"{letter.topic} {letter.partition} {letter.offset}".encode(), ())
    return _digest(letter.original_key, letter.record.value, letter.original_headers)


def _digest(key: bytes | None, value: bytes | None, headers: Headers) -> bytes:
    # repr separates the parts, and distinguishes None from empty.
    return hashlib.sha256(repr((key, value, headers)).encode()).digest()[:16]


def _run_id(record: Record) -> str | None:
    try:
        return received(record).run_id
    except RequestError:
        return None
