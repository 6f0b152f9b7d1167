"""Compression of artifacts, as a stream."""

import gzip

import pytest
import zstandard

from pipeline_processing.formats.compression import compressor
from pipeline_processing.model import Compression

PIECES = [b"", b"id,name\n", b"1,x\n" * 50_000, b"", bytes(range(256)) * 100]


def _compressed(compression: Compression, pieces: list[bytes]) -> bytes:
    stream = compressor(compression)
    return b"".join(stream.compress(piece) for piece in pieces) + stream.flush()


def _decompressed(compression: Compression, data: bytes) -> bytes:
    match compression:
        case Compression.GZIP:
            return gzip.decompress(data)
        case Compression.ZSTD:
            return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data


@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize("pieces", [PIECES, [], [b""]])
def test_bytes_come_back(compression: Compression, pieces: list[bytes]):
    """What is compressed piece by piece is read back by the usual tools; nothing at all is a valid file too."""
    data = _compressed(compression, pieces)

    assert _decompressed(compression, data) == b"".join(pieces)
    if compression is not Compression.NONE and pieces == PIECES:
        assert len(data) < 20_000


@pytest.mark.parametrize("compression", Compression)
def test_equal_bytes_give_equal_bytes(compression: Compression):
    """A repeated attempt writes the same object: there is no time in it."""
    assert _compressed(compression, PIECES) == _compressed(compression, PIECES)


def test_gzip_has_no_time():
    """Its header could hold one, from byte 4 to 8."""
    assert _compressed(Compression.GZIP, PIECES)[4:8] == b"\0\0\0\0"


def test_damage_is_found():
    """zstd carries a checksum, as gzip always does."""
    data = bytearray(_compressed(Compression.ZSTD, PIECES))
    assert zstandard.get_frame_parameters(bytes(data)).has_checksum
    data[-1] ^= 1

    with pytest.raises(zstandard.ZstdError):
        zstandard.ZstdDecompressor().decompressobj().decompress(bytes(data))


@pytest.mark.parametrize(
    ("compression", "suffix"), [(Compression.NONE, ""), (Compression.GZIP, ".gz"), (Compression.ZSTD, ".zst")]
)
def test_suffixes(compression: Compression, suffix: str):
    """Readers know a file's compression by its name."""
    assert compression.suffix == suffix
