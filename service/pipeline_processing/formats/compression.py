"""Streaming compression of artifacts."""

from typing import Any, Protocol

import zstandard
from isal import isal_zlib

from pipeline_processing.model import Compression


class Compressor(Protocol):
    """Compresses a stream. Output may lag behind the input."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes:
        """Return the remaining bytes and end the stream."""


class _Uncompressed:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def compressor(compression: Compression) -> Compressor:
    """Start a stream. The same input gives the same output: gzip's header has no timestamp."""
    made: Any
    match compression:
        case Compression.NONE:
            return _Uncompressed()
        case Compression.GZIP:
            # ISA-L at level 1 is ten times as fast as zlib's default; its output is a tenth larger.
            made = isal_zlib.compressobj(level=1, wbits=31)
        case Compression.ZSTD:
            made = zstandard.ZstdCompressor(level=1, write_checksum=True).compressobj()
    checked: Compressor = made
    return checked
