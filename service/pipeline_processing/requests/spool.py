"""Store many values, packed, in memory at first and then in an unnamed temporary file."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from tempfile import SpooledTemporaryFile
from typing import Any, Generic, TypeVar

import msgspec

from pipeline_processing.temporary_files import translated

T = TypeVar("T")

_IN_MEMORY = 32 * 1024 * 1024
"""Bytes. Up to this size, no temporary file is needed."""


class Spool(Generic[T]):
    """
    Pages of values, written once and read any number of times inside the block.

    Methods raise SettingsError if temporary files can't be made, and TransientError if there is no room for them.
    """

    def __init__(self, kind: type[T]) -> None:
        self._file = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115  # closed by __exit__
        self._pages: list[tuple[int, int]] = []
        self._decoder: Any = msgspec.msgpack.Decoder(list[kind])  # type: ignore[valid-type]

    def __enter__(self) -> "Spool[T]":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # closing flushes buffered data, which isn't needed any more
            self._file.close()

    def add(self, page: Sequence[T]) -> None:
        """Add a page of values."""
        packed = msgspec.msgpack.encode(list(page))
        with translated():
            self._pages.append((self._file.tell(), len(packed)))
            self._file.write(packed)

    def pages(self, *, backwards: bool = False) -> Iterator[list[T]]:
        """Iterate over the pages in order or, if `backwards`, over pages and their values in reverse order."""
        for start, length in reversed(self._pages) if backwards else self._pages:
            with translated():
                self._file.seek(start)  # flushes buffered data
                packed = self._file.read(length)
            page: list[T] = self._decoder.decode(packed)
            yield page[::-1] if backwards else page
