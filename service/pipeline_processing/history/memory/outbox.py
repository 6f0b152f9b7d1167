"""The outbox of the in-memory run table."""

from collections import Counter

from pipeline_processing.ports import Announce
from pipeline_processing.runs.completions import OutboxEvent


class MemoryOutbox:
    """Which of `events`, oldest first, are still to be sent."""

    def __init__(self, events: list[OutboxEvent]) -> None:
        self._events = events
        self._sent: set[str] = set()
        self._being_sent: set[str] = set()
        self._asked_again: Counter[str] = Counter()
        """By run, as the others are by event."""

    def add(self, event: OutboxEvent) -> None:
        """A new event."""
        self._events.append(event)

    def ask_again(self, run_id: str) -> None:
        """Have a run's event sent once more, even if it is being sent just now."""
        self._asked_again[run_id] += 1
        self._sent -= {event.event_id for event in self._events if event.run_id == run_id}

    @property
    def all_sent(self) -> bool:
        return all(event.event_id in self._sent for event in self._events)

    async def announce(self, send: Announce, *, limit: int) -> int:
        """See `RunStore`."""
        taken = [e for e in self._events if e.event_id not in self._sent | self._being_sent][:limit]
        asked_again = self._asked_again.copy()
        self._being_sent |= {event.event_id for event in taken}
        try:
            if taken:
                await send(taken)
        finally:
            self._being_sent -= {event.event_id for event in taken}
        self._sent |= {e.event_id for e in taken if self._asked_again[e.run_id] == asked_again[e.run_id]}
        return len(taken)
