"""Rows that are already encoded."""


class Lines:
    """A batch of rows that are already encoded. A slice has only some of the rows, and shares the bytes."""

    __slots__ = ("_begin", "data", "ends")

    def __init__(self, data: bytes, ends: memoryview, begin: int = 0) -> None:
        """`ends` (format Q) has the offset in `data` behind each row. The first row begins at `begin`."""
        self.data = data
        self.ends = ends
        self._begin = begin

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, rows: slice) -> "Lines":
        """Return consecutive rows."""
        start, _, _ = rows.indices(len(self.ends))
        return Lines(self.data, self.ends[rows], self.ends[start - 1] if start else self._begin)

    def __bytes__(self) -> bytes:
        return self.data[self._begin : self.ends[-1] if self.ends else self._begin]
