"""An object is recognised by what any store reports of it."""

from __future__ import annotations

import hashlib
import zlib
from base64 import b64encode

import pytest

from pipeline_processing.destinations.s3.objects import Fingerprint, crc32_of, sha256_of
from pipeline_processing.plan import InlineContent, MultipartUpload, UploadedPart


def part(number: int, *, etag: str, sha256: bool = True) -> UploadedPart:
    body = bytes([number])
    return UploadedPart(number=number, etag=etag, crc32=crc32_of(body), sha256=sha256_of(body) if sha256 else None)


MULTIPART = Fingerprint.of(MultipartUpload(upload_id="u", parts=tuple(part(n, etag=f'"{n:032x}"') for n in (1, 2))))
INLINE = Fingerprint.of(InlineContent(content=b64encode(b"abc").decode()))


def test_crc32_is_written_as_s3_does() -> None:
    """Big-endian, base64; and isal computes what zlib does."""
    assert crc32_of(b"abc") == b64encode(zlib.crc32(b"abc").to_bytes(4, "big")).decode() == "NSRBwg=="


@pytest.mark.parametrize("mine", [MULTIPART, INLINE], ids=["multipart", "inline"])
def test_what_agrees_is_ours(mine: Fingerprint) -> None:
    """By one of CRC32, SHA-256 and ETag, or by several; an ETag of SSE-KMS says nothing against it."""
    assert mine.matches(crc32=mine.crc32, etag=f'"{mine.etag}"')
    assert mine.matches(crc32=None, etag=f'"{mine.etag}"')
    assert mine.matches(crc32=mine.crc32, etag='"not-an-md5"')
    assert mine.matches(crc32=mine.crc32, etag=f'"{"0" * 32}"')
    assert mine.matches(crc32=None, etag='"not-an-md5"')
    assert mine.matches(crc32=None, etag='"not-an-md5"', sha256=mine.sha256)
    assert mine.matches(crc32=None, etag=f'"{"0" * 32}"', sha256=mine.sha256)


@pytest.mark.parametrize("mine", [MULTIPART, INLINE], ids=["multipart", "inline"])
def test_what_disagrees_isnt(mine: Fingerprint) -> None:
    """Whatever can be compared differs."""
    assert not mine.matches(crc32="AAAAAA==", etag=f'"{"0" * 32}"')
    assert not mine.matches(crc32="AAAAAA==", etag=None)
    assert not mine.matches(crc32=None, etag=f'"{"0" * 32}-2"')
    assert not mine.matches(crc32=None, etag=None, sha256=sha256_of(b"another"))
    assert not mine.matches(crc32=None, etag='"not-an-md5"', sha256=sha256_of(b"another"))


def test_sha256_is_written_as_s3_does() -> None:
    """Of the bytes, or of the digests of the parts, with their number."""
    digest = hashlib.sha256(b"abc").digest()
    assert INLINE.sha256 == sha256_of(b"abc") == b64encode(digest).decode()
    of_parts = hashlib.sha256(hashlib.sha256(b"\x01").digest() + hashlib.sha256(b"\x02").digest()).digest()
    assert MULTIPART.sha256 == f"{b64encode(of_parts).decode()}-2"


@pytest.mark.parametrize("whole", [None, crc32_of(b"\x01\x02")])
def test_an_upload_is_known_by_either_kind_of_crc32(whole: str | None) -> None:
    """That of all bytes, if it is known, and that of the parts' CRC32s, as a store that keeps only this reports it."""
    parts = tuple(part(number, etag='"opaque"') for number in (1, 2))
    mine = Fingerprint.of(MultipartUpload(upload_id="u", parts=parts, crc32=whole))
    assert mine.matches(crc32=mine.crc32, etag=None)
    assert not mine.matches(crc32="AAAAAA==-2", etag=None)
    assert mine.matches(crc32=crc32_of(b"\x01\x02"), etag=None) == (whole is not None)
    assert not mine.matches(crc32="AAAAAA==", etag=None)


def test_parts_without_sha256_have_none_to_compare() -> None:
    """Where the store was told the CRC32 only, what it says of SHA-256 is nobody's business."""
    staged = MultipartUpload(upload_id="u", parts=(part(1, etag='"opaque"', sha256=False), part(2, etag='"opaque"')))
    mine = Fingerprint.of(staged)
    assert mine.sha256 is None
    assert mine.matches(crc32=None, etag=None, sha256=sha256_of(b"another"))


def test_parts_without_md5_have_no_etag_to_compare() -> None:
    """Under SSE-KMS neither parts nor objects have one."""
    staged = MultipartUpload(upload_id="u", parts=(part(1, etag='"opaque"'),))
    assert Fingerprint.of(staged).etag is None
