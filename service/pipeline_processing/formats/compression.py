"""Compression of an artifact's bytes, as a stream."""

from typing import Any, Protocol

import zstandard
from isal import isal_zlib

from pipeline_processing.model import Compression


class Compressor(Protocol):
    """Bytes in, fewer bytes out, perhaps later."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes:
        """All that is left. Nothing can follow."""


class _Uncompressed:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def compressor(compression: Compression) -> Compressor:
    """A new stream. The same bytes in give the same bytes out: gzip's header carries no time."""
    made: Any
    match compression:
        case Compression.NONE:
            return _Uncompressed()
        case Compression.GZIP:
            # Level 1 of ISA-L: ten times as fast as zlib's default, for a tenth more bytes.
            made = isal_zlib.compressobj(level=1, wbits=31)
        case Compression.ZSTD:
            made = zstandard.ZstdCompressor(level=1, write_checksum=True).compressobj()
    checked: Compressor = made
    return checked
