"""Distinguish a topic from a later topic of the same name."""

from collections.abc import Iterable
from uuid import UUID


class Incarnation:
    """
    Tracks which of several successive topics of one name is read, across all subscriptions of a process.

    Offsets committed for an earlier topic don't apply to a later one, which is read from its beginning.
    """

    def __init__(self) -> None:
        self._id: UUID | None = None
        self._seen = False
        self._missed = False
        self._recreated = False
        self._begun: set[int] = set()

    @property
    def id(self) -> UUID | None:
        """The id of the topic that was found last; None if the brokers have no topic ids."""
        return self._id

    def gone(self) -> None:
        """
        Record that the topic seems to be missing. The next one found counts as another topic, even if the brokers have
        no topic ids, unless it has the same id.
        """
        self._missed = self._seen

    def saw(self, found: UUID | None) -> None:
        """Record that the topic exists. `found` is its id, or None if the brokers have no topic ids."""
        is_same = found is not None and found == self._id
        is_other = None not in (found, self._id) and not is_same
        if self._seen and (is_other or (self._missed and not is_same)):
            self._recreated = True
            self._begun.clear()
        self._id, self._seen, self._missed = found or self._id, True, False

    def to_begin(self, partitions: Iterable[int]) -> list[int]:
        """Return those partitions that must now be read from their beginning. Each is returned only once."""
        if not self._recreated:
            return []
        found = [partition for partition in partitions if partition not in self._begun]
        self._begun.update(found)
        return found
