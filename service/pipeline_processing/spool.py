"""More values than should be held at once: packed, in memory at first and then in a file without a name."""

from collections.abc import Iterator, Sequence
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")

_IN_MEMORY = 32 * 1024 * 1024
"""Bytes. Where no file can be made, as in a read-only container, that much still works."""


class Spool(Generic[T]):
    """Pages of values, written once and then read as often as need be; open for the length of a block."""

    def __init__(self, kind: type[T]) -> None:
        self._file = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115  # closed by __exit__
        self._pages: list[tuple[int, int]] = []
        self._decoder: Any = msgspec.msgpack.Decoder(list[kind])  # type: ignore[valid-type]

    def __enter__(self) -> "Spool[T]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, page: Sequence[T]) -> None:
        """The values that will come back together."""
        packed = msgspec.msgpack.encode(list(page))
        self._pages.append((self._file.tell(), len(packed)))
        self._file.write(packed)

    def pages(self, *, backwards: bool = False) -> Iterator[list[T]]:
        """Page by page as they were added, or the last value of the last page first."""
        for start, length in reversed(self._pages) if backwards else self._pages:
            self._file.seek(start)
            page: list[T] = self._decoder.decode(self._file.read(length))
            yield page[::-1] if backwards else page
