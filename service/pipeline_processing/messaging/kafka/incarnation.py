"""Telling a topic from a later topic of the same name."""

from collections.abc import Iterable
from uuid import UUID


class Incarnation:
    """
    Which of several topics of one name is being read, over all subscriptions of a process.

    Offsets that were committed of an earlier topic mean nothing for a later one, which is read from its beginning.
    """

    def __init__(self) -> None:
        self._id: UUID | None = None
        self._seen = False
        self._missed = False
        self._anew = False
        self._begun: set[int] = set()

    def gone(self) -> None:
        """
        There seems to be no such topic. The next one is another topic, also where brokers give no ids, unless its id
        is the same.
        """
        self._missed = self._seen

    def saw(self, found: UUID | None) -> None:
        """The topic is there, with this id, if brokers give ids."""
        is_same = found is not None and found == self._id
        is_other = None not in (found, self._id) and not is_same
        if self._seen and (is_other or (self._missed and not is_same)):
            self._anew = True
            self._begun.clear()
        self._id, self._seen, self._missed = found or self._id, True, False

    def to_begin(self, partitions: Iterable[int]) -> list[int]:
        """Those partitions that this process has to read from their beginning now: each of them once."""
        if not self._anew:
            return []
        found = [partition for partition in partitions if partition not in self._begun]
        self._begun.update(found)
        return found
