"""An object is recognised by what any store reports of it."""

from __future__ import annotations

import zlib
from base64 import b64encode

import pytest

from pipeline_processing.model import InlineContent, MultipartUpload, UploadedPart
from pipeline_processing.s3.checksums import Fingerprint, crc32_of


def part(number: int, *, etag: str) -> UploadedPart:
    return UploadedPart(number=number, etag=etag, crc32=crc32_of(bytes([number])))


MULTIPART = Fingerprint.of(MultipartUpload(upload_id="u", parts=tuple(part(n, etag=f'"{n:032x}"') for n in (1, 2))))
INLINE = Fingerprint.of(InlineContent(content=b64encode(b"abc").decode()))


def test_crc32_is_written_as_s3_does() -> None:
    """Big-endian, base64; and isal computes what zlib does."""
    assert crc32_of(b"abc") == b64encode(zlib.crc32(b"abc").to_bytes(4, "big")).decode() == "NSRBwg=="


@pytest.mark.parametrize("mine", [MULTIPART, INLINE], ids=["multipart", "inline"])
def test_what_agrees_is_ours(mine: Fingerprint) -> None:
    """By CRC32, by ETag, or by both; an ETag of SSE-KMS says nothing against it."""
    assert mine.matches(crc32=mine.crc32, etag=f'"{mine.etag}"')
    assert mine.matches(crc32=None, etag=f'"{mine.etag}"')
    assert mine.matches(crc32=mine.crc32, etag='"not-an-md5"')
    assert mine.matches(crc32=mine.crc32, etag=f'"{"0" * 32}"')
    assert mine.matches(crc32=None, etag='"not-an-md5"')


@pytest.mark.parametrize("mine", [MULTIPART, INLINE], ids=["multipart", "inline"])
def test_what_disagrees_isnt(mine: Fingerprint) -> None:
    """Whatever can be compared differs."""
    assert not mine.matches(crc32="AAAAAA==", etag=f'"{"0" * 32}"')
    assert not mine.matches(crc32="AAAAAA==", etag=None)
    assert not mine.matches(crc32=None, etag=f'"{"0" * 32}-2"')


def test_parts_without_md5_have_no_etag_to_compare() -> None:
    """Under SSE-KMS neither parts nor objects have one."""
    staged = MultipartUpload(upload_id="u", parts=(part(1, etag='"opaque"'),))
    assert Fingerprint.of(staged).etag is None
