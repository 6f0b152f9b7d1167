"""The checksums that S3 keeps, computed here so that damage on the way is seen."""

import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from isal.isal_zlib import crc32

from pipeline_processing.model import InlineContent, MultipartUpload, UploadedPart

_MD5_ETAG = re.compile(r"[0-9a-f]{32}(-\d+)?")


def crc32_of(data: bytes | bytearray | memoryview) -> str:
    """CRC32 as S3 writes it: big-endian, base64."""
    return b64encode(crc32(data).to_bytes(4, "big")).decode()


def sha256_of(data: bytes | bytearray | memoryview) -> str:
    """SHA-256 as S3 writes it: base64."""
    return b64encode(hashlib.sha256(data).digest()).decode()


def checksum_argument(*, crc32: str, sha256: str | None) -> dict[str, str]:
    """The one checksum that a call names: S3 takes no two."""
    return {"ChecksumCRC32": crc32} if sha256 is None else {"ChecksumSHA256": sha256}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """
    What S3 will report of an object. The SHA-256 of a multipart upload can't be among its metadata, which
    is fixed before the first byte is known; these follow from its parts.
    """

    crc32: str
    """For a multipart upload the composite one: CRC32 of the parts' CRC32s, and `-` and their number."""
    etag: str | None
    """MD5 in the same manner; None where the store's ETags aren't MD5."""
    sha256: str | None
    """SHA-256 in the same manner; None where the store wasn't told those of the parts."""

    @classmethod
    def of(cls, staged: MultipartUpload | InlineContent) -> "Fingerprint":
        if isinstance(staged, MultipartUpload):
            sha256s = [part.sha256 for part in staged.parts if part.sha256 is not None]
            return cls(
                crc32=_composite([part.crc32 for part in staged.parts], crc32_of),
                etag=_composite_etag(staged.parts),
                sha256=_composite(sha256s, sha256_of) if len(sha256s) == len(staged.parts) else None,
            )
        content = b64decode(staged.content)
        etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return cls(crc32=crc32_of(content), etag=etag, sha256=sha256_of(content))

    def matches(self, *, crc32: str | None, etag: str | None, sha256: str | None = None) -> bool:
        """
        Compare with what the store reports; each may be None or in a form of its own (an ETag isn't MD5
        under SSE-KMS). One that agrees is proof; where none can be compared there is nothing against it.
        """
        comparable = [(self.crc32, crc32)] if crc32 is not None else []
        if self.sha256 is not None and sha256 is not None:
            comparable.append((self.sha256, sha256))
        if self.etag is not None and etag is not None and _MD5_ETAG.fullmatch(etag.strip('"')):
            comparable.append((self.etag, etag.strip('"')))
        return not comparable or any(mine == theirs for mine, theirs in comparable)


def _composite(of_parts: Sequence[str], of_bytes: Callable[[bytes], str]) -> str:
    """The checksum of the parts' checksums."""
    return f"{of_bytes(b''.join(map(b64decode, of_parts)))}-{len(of_parts)}"


def _composite_etag(parts: Sequence[UploadedPart]) -> str | None:
    etags = [part.etag.strip('"') for part in parts]
    if not all(len(etag) == 32 and _MD5_ETAG.fullmatch(etag) for etag in etags):
        return None
    digest = hashlib.md5(b"".join(map(bytes.fromhex, etags)), usedforsecurity=False)
    return f"{digest.hexdigest()}-{len(parts)}"
