"""What a server sends for COPY … TO STDOUT (FORMAT binary), and streams that read it."""

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

reader = pytest.importorskip(
    "pipeline_processing.sources.postgres.copy_stream",
    reason="the native reader isn't built: install g++ and the headers of Python, and run `make install` again",
)
TYPES, CopyMalformed, CopyStream = reader.TYPES, reader.CopyMalformed, reader.CopyStream

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
DONE = b"c\0\0\0\x04"


def row(*fields: bytes | None) -> bytes:
    """A row of the values' binary form."""
    return struct.pack("!h", len(fields)) + b"".join(map(_field, fields))


def _field(value: bytes | None) -> bytes:
    return b"\xff\xff\xff\xff" if value is None else struct.pack("!i", len(value)) + value


def message(kind: bytes, content: bytes) -> bytes:
    """A message of the protocol."""
    return kind + struct.pack("!i", 4 + len(content)) + content


def sent(rows: Sequence[bytes]) -> bytes:
    """All messages of a COPY, cut as Postgres cuts them: the header comes with the first row."""
    contents = [HEADER + b"".join(rows[:1]), *rows[1:], TRAILER]
    return b"".join(message(b"d", content) for content in contents) + DONE


def taken(
    types: Sequence[str], outputs: Any, chunks: Iterable[bytes], *, carry: str = "json"
) -> tuple[bytes | list[Any], bytes]:
    """Everything a stream makes of these chunks, and the bytes that it passes on."""
    stream = CopyStream(types, outputs, carry=carry)
    passed, made = bytearray(), []
    for chunk in chunks:
        passed += stream.feed(chunk)
        made.append(stream.take())
    assert (stream.rows, stream.size, stream.begun) == (0, 0, 0)
    if all(isinstance(some, list) for some in made):
        return [values for some in made for values in some], bytes(passed)
    return b"".join(map(bytes, made)), bytes(passed)


def numeric(digits: Sequence[int], weight: int, scale: int, sign: int = 0) -> bytes:
    """A numeric: digits to base 10,000, of which the first counts 10,000^weight."""
    return struct.pack(f"!hhHH{len(digits)}H", len(digits), weight, sign, scale, *digits)
