"""
Keep the windows of the partitions that this process holds, and ask for runs when they close.

Entries are settled in the order of their log: the requests of closed windows are sent, then the new states are stored,
and only then are the entries' offsets committed. After a crash, the entries are delivered again, to this process or to
another one, and make the same requests again, which make no second run.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Protocol, TypeVar

from pydantic import ValidationError

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.aio.asking import Server
from pipeline_processing.errors import InvalidEvent
from pipeline_processing.log import get_logger
from pipeline_processing.messaging.port import Events, Offsets, Outgoing, Record, Topics
from pipeline_processing.options.validation import faults_of
from pipeline_processing.telemetry.health import Pulse
from pipeline_processing.triggers.other_files import OtherFiles
from pipeline_processing.triggers.run_requests import RunRequester
from pipeline_processing.triggers.watermarks import Watermarks
from pipeline_processing.triggers.windows import (
    AgencyWindows,
    Ask,
    Closing,
    Happened,
    apply,
    due,
    entry_key,
    moment_of,
    read_entry,
    unread,
    write_entry,
)

log = get_logger(__name__)

T = TypeVar("T")

_STORED_TOGETHER = 500
_ASK_AGAIN_SECONDS = 10.0
"""How long to wait for an entry that closes a window before writing another one."""


Place = tuple[int, bytes]
"""Partition and key of a state."""

COMPLETE = b"complete"
"""The key, in each partition of the changelog, that says that nothing before it was lost."""

Tick = Callable[[asyncio.Event], Awaitable[None]]
"""Something to do twice a second. Gets the event that stops it."""


class Reassigned(Exception):
    """The partitions have another owner now, or may have: nothing was stored."""


class WindowTable(Protocol):
    """States of the partitions that this process holds, by agency."""

    def states(self) -> Mapping[int, Mapping[bytes, bytes]]:
        """Return partition → key → state."""

    async def store(self, states: Mapping[Place, bytes]) -> None:
        """Return once the brokers have stored these states. Raises Reassigned."""


class Letters(Protocol):
    """Puts messages aside that can't be used."""

    async def put_aside(self, letters: Sequence[tuple[Record, InvalidEvent]], stop: asyncio.Event) -> None:
        """Return once they are stored. Raises Stopped if `stop` is set first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryLog:
    """The log of entries: its topic, and how it is read and written."""

    topic: str
    reader: Topics
    """With the consumer group of the processes that keep windows."""
    events: Events


@dataclass(slots=True)
class _Applied:
    """What applying some records has led to."""

    changed: dict[Place, AgencyWindows] = field(default_factory=dict)
    asks: list[Ask] = field(default_factory=list)
    unreadable: list[tuple[Record, InvalidEvent]] = field(default_factory=list)


class WindowKeeper:
    """Applies entries to the windows of the held partitions. Used by one task."""

    def __init__(
        self,
        *,
        entries: EntryLog,
        requester: RunRequester,
        letters: Letters,
        kafka: Server,
        watermarks: Watermarks,
        files: OtherFiles,
        pulse: Pulse,
    ) -> None:
        self._log = entries
        self._requester = requester
        self._letters = letters
        self._kafka = kafka
        self._clock = kafka.clock
        self._watermarks = watermarks
        self._files = files
        self._pulse = pulse
        self._states: dict[int, dict[bytes, AgencyWindows]] = {}
        self._epochs: dict[int, int] = {}
        """Epoch of each partition of the log."""
        self._open: dict[Place, datetime] = {}
        """The states with open windows, and when the first of these may close."""
        self._next: dict[int, int] = {}
        """Partition → offset of the next entry to apply."""
        self._closing: dict[tuple[AgencyId, str], float] = {}
        """Agency and window → when an entry that closes it was written."""

    @property
    def leads(self) -> bool:
        """Whether this process holds the first partition. Of all processes, one does, or for a moment none or two."""
        return 0 in self._states

    @property
    def open_windows(self) -> int:
        """How many windows of the held partitions are open. May be read in another thread."""
        places = self._open.copy()
        states = [state for partition, key in places if (state := self._states.get(partition, {}).get(key)) is not None]
        return sum(each.window is not None for state in states for each in state.triggers.values())

    def overdue_seconds(self) -> float:
        """For how long a held window should have been closed; 0 if none is due. May be called in another thread."""
        due_at = min(self._open.copy().values(), default=None)
        return 0.0 if due_at is None else max(0.0, (self._clock.now() - due_at).total_seconds())

    async def hold(self, partitions: Sequence[int], table: WindowTable, stop: asyncio.Event) -> None:
        """
        Take over these partitions, and no others, with the states restored from their changelog.

        States that the changelog has lost, or that can't be read, are rebuilt from the log of entries. Raises Stopped.
        """
        committed = await self._ask(partial(self._log.reader.committed, self._log.topic), stop)
        ends = await self._ask(partial(self._log.reader.ends, self._log.topic), stop)
        self._closing.clear()
        self._watermarks.forget()
        self._states, self._epochs, self._open = {}, {}, {}
        self._next = {partition: committed.get(partition, 0) for partition in partitions}
        lost = [
            partition
            for partition in partitions
            if not await self._restore(partition, table.states().get(partition, {}), end=ends.get(partition, 0))
        ]
        if lost:
            await self._rebuild(lost, table, stop)

    async def take(self, records: Sequence[Record], table: WindowTable, stop: asyncio.Event) -> None:
        """
        Settle these records of held partitions, in order within each partition.

        Raises Reassigned or Stopped: they are not settled then, or not all.
        """
        fresh: list[Record] = []
        for partition in dict.fromkeys(record.partition for record in records if record.partition in self._states):
            fresh += await self._fresh(partition, [each for each in records if each.partition == partition], stop)
        if not fresh:
            return
        applied = _Applied()
        for record in fresh:
            self._apply(record, applied)
        if applied.unreadable:
            await self._letters.put_aside(applied.unreadable, stop)
        if applied.asks:
            messages = self._requester.messages(applied.asks)
            await self._ask(partial(self._log.events.send, messages), stop)
        await self._store(applied.changed, table, stop)
        self._next.update((record.partition, record.offset + 1) for record in fresh)

    async def behind(self, stop: asyncio.Event) -> list[tuple[int, int]]:
        """
        Return the held partitions with entries that are yet to be taken, each with the offset of the next one. Raises
        Stopped.
        """
        ends = await self._ask(partial(self._log.reader.ends, self._log.topic), stop)
        return [(partition, offset) for partition, offset in self._next.items() if offset < ends.get(partition, 0)]

    async def close_due(self, stop: asyncio.Event) -> None:
        """Write an entry for each window that is due. It closes once that entry is taken. Raises Stopped."""
        self._files.refresh()
        now = self._clock.now()
        may_close = [place for place, due_at in self._open.items() if due_at <= now]
        states = [(self._states[partition][key], partial(self._read_up_to, partition)) for partition, key in may_close]
        for topic in {topic for state, read_up_to in states for topic in unread(state, now, read_up_to=read_up_to)}:
            await self._ask(partial(self._watermarks.advance, topic, self._next), stop)
        due_now = (entry for state, read_up_to in states for entry in due(state, now, read_up_to=read_up_to))
        entries = [entry for entry in due_now if self._is_new(entry)]
        if entries:
            written = map(write_entry, entries)
            messages = [Outgoing(topic=self._log.topic, key=key, value=value) for key, value in written]
            await self._ask(partial(self._log.events.send, messages), stop)

    def _read_up_to(self, partition: int, topic: str) -> datetime:
        return self._watermarks.of(topic, partition)

    def _is_new(self, closing: Closing) -> bool:
        """Whether no such entry was written lately."""
        now, window = self._clock.monotonic(), (closing.agency_id, closing.window)
        is_new = now - self._closing.get(window, -math.inf) > _ASK_AGAIN_SECONDS
        if is_new:
            self._closing[window] = now
        return is_new

    # -- inside ----------------------------------------------------------------------------------

    async def _fresh(self, partition: int, records: Sequence[Record], stop: asyncio.Event) -> list[Record]:
        """Return the next records of a partition: without those that were taken, and with those that were skipped."""
        expected = self._next[partition]
        fresh = [record for record in records if record.offset >= expected]
        if not fresh or fresh[-1].offset - expected == len(fresh) - 1:
            return fresh
        # Faust may skip records of a partition that it has just been given.
        after = fresh[-1].offset + 1

        async def read() -> list[Record]:
            return [each async for each in self._between({partition: expected}, {partition: after})]

        return await self._ask(read, stop)

    async def _between(self, start: Offsets, after: Offsets) -> AsyncGenerator[Record, None]:
        """Yield the entries of these partitions between these offsets."""
        ends = await self._log.reader.ends(self._log.topic)
        async for record in self._log.reader.read(self._log.topic, start={**ends, **start}, stop={**ends, **after}):
            self._pulse.beat()
            yield record

    def _apply(self, record: Record, applied: _Applied) -> None:
        try:
            entry, at = read_entry(record.value or b""), moment_of(record.timestamp_ms)
        except (ValueError, OverflowError) as error:
            applied.unreadable.append((record, InvalidEvent(f"The windows' log has an invalid entry: {_why(error)}.")))
            return
        place = record.partition, entry_key(entry)
        before = applied.changed.get(place) or self._states[place[0]].get(place[1])
        before = before or AgencyWindows(agency_id=entry.agency_id, epoch=self._epochs[record.partition])
        after, ask = apply(before, entry, offset=record.offset, at=at)
        if after is not before:
            applied.changed[place] = after
        if ask is not None:
            applied.asks.append(ask)
        if isinstance(entry, Happened):
            self._files.saw(entry.triggers_id, at)
        else:
            self._closing.pop((entry.agency_id, entry.window), None)

    async def _store(self, changed: Mapping[Place, AgencyWindows], table: WindowTable, stop: asyncio.Event) -> None:
        if changed:
            states = {place: state.write() for place, state in changed.items()}
            await self._ask(lambda: table.store(states), stop)
        for place, state in changed.items():
            self._keep(place, state)

    def _keep(self, place: Place, state: AgencyWindows) -> None:
        self._states[place[0]][place[1]] = state
        if (due_at := state.due_at) is None:
            self._open.pop(place, None)
        else:
            self._open[place] = due_at

    async def _restore(self, partition: int, stored: Mapping[bytes, bytes], *, end: int) -> bool:
        """Take over a partition's states. Return False if some are lost. `end` is the end of its log."""
        states: dict[bytes, AgencyWindows] = {}
        faults: dict[bytes, str] = {}
        for number, (key, value) in enumerate(list(stored.items())):  # more may be restored meanwhile
            if number % _STORED_TOGETHER == 0:
                self._pulse.beat()
                await asyncio.sleep(0)
            try:
                if key != COMPLETE:
                    states[key] = AgencyWindows.read(value)
            except ValueError as error:
                faults[key] = _why(error)
        if faults:
            key, why = next(iter(faults.items()))
            log.error(
                "windows in the changelog can't be read; they count as lost",
                agencies=len(faults),
                first=key.decode(errors="replace"),
                error=why,
            )
        epoch = max((state.epoch for state in states.values()), default=0)
        if any(state.epoch == epoch and state.applied >= end for state in states.values()):
            log.warning("the log of windows' entries was deleted and recreated; open windows are kept")
            epoch += 1
        self._states[partition], self._epochs[partition] = {}, epoch
        if COMPLETE not in stored:
            return False
        for key, state in states.items():
            self._keep((partition, key), state if state.epoch == epoch else state.for_another_log(epoch))
        return not faults

    async def _rebuild(self, partitions: Sequence[int], table: WindowTable, stop: asyncio.Event) -> None:
        """
        Apply the entries up to the committed offsets again, if there are any, to the states that lack them. Their
        requests were sent before these offsets were committed.
        """

        async def read() -> dict[Place, AgencyWindows]:
            applied = _Applied()
            start, after = dict.fromkeys(partitions, 0), {each: self._next[each] for each in partitions}
            async for record in self._between(start, after):
                self._apply(record, applied)
                applied.asks.clear()
            return applied.changed

        changed = list((await self._ask(read, stop)).items()) if any(self._next[each] for each in partitions) else []
        for start in range(0, len(changed), _STORED_TOGETHER):
            await self._store(dict(changed[start : start + _STORED_TOGETHER]), table, stop)
        await self._ask(lambda: table.store({(partition, COMPLETE): b"{}" for partition in partitions}), stop)
        if changed:
            log.warning(
                "the changelog of windows was lost, or a part of it; windows are rebuilt from the log of entries",
                partitions=list(partitions),
                agencies=len(changed),
                with_open_windows=sum(partition in partitions for partition, _ in self._open),
            )

    async def _ask(self, call: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T:
        def beating() -> Awaitable[T]:
            self._pulse.beat()
            return call()

        return await self._kafka.ask(beating, by=self, stop=stop)


def _why(error: Exception) -> str:
    """Return what is wrong with an entry or state, without the values in it."""
    return "; ".join(faults_of(error)) if isinstance(error, ValidationError) else str(error)
