"""Cuts a stream of bytes where records end, so that each piece can be loaded by itself."""

import csv
import io

from pipeline_processing.model import FormatName


class Records:
    """
    Bytes that arrive in any pieces, given out in whole records.

    An NDJSON record ends with its line. A CSV one ends with a line too, unless that stands in quotes: after an odd
    number of them.
    """

    def __init__(self, format_name: FormatName) -> None:
        self._quotes = format_name is FormatName.CSV
        self._buffer = bytearray()

    def __len__(self) -> int:
        """Bytes that are held."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Append."""
        self._buffer += data

    def take(self) -> bytes:
        """All whole records; empty if there is none yet."""
        return self._cut(self._last_end())

    def take_first(self) -> bytes:
        """One record; empty if none is whole yet."""
        return self._cut(self._first_end())

    def take_rest(self) -> bytes:
        """Everything, also a last record without an end."""
        return self._cut(len(self._buffer))

    def _cut(self, end: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:end])
        del self._buffer[:end]
        return taken

    def _last_end(self) -> int:
        at = self._buffer.rfind(b"\n")
        if not self._quotes or at < 0:
            return at + 1
        quotes = self._buffer.count(b'"', 0, at)
        while quotes % 2:
            before = self._buffer.rfind(b"\n", 0, at)
            quotes -= self._buffer.count(b'"', max(before, 0), at)
            at = before
        return at + 1

    def _first_end(self) -> int:
        at, quotes, start = self._buffer.find(b"\n"), 0, 0
        while at >= 0 and self._quotes:
            quotes += self._buffer.count(b'"', start, at)
            if quotes % 2 == 0:
                break
            start, at = at, self._buffer.find(b"\n", at + 1)
        return at + 1


def csv_fields(record: bytes, *, delimiter: str) -> list[str]:
    """The fields of one CSV record; none of an empty line."""
    return next(csv.reader(io.StringIO(record.decode(), newline=""), delimiter=delimiter), [])
