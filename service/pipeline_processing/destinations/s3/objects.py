"""What requests for objects carry: bodies, checksums, and what the objects are created with."""

import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from isal.isal_zlib import crc32

from pipeline_processing.destinations.s3.options import S3ObjectOptions
from pipeline_processing.model import InlineContent, MultipartUpload, UploadedPart

AS_THE_BUCKET_HAS_IT = S3ObjectOptions()
"""Nothing is set."""
_SLICE = 256 * 1024
_MD5_ETAG = re.compile(r"[0-9a-f]{32}(-\d+)?")


def creation_arguments(
    *, content_type: str, metadata: Mapping[str, str], options: S3ObjectOptions = AS_THE_BUCKET_HAS_IT
) -> dict[str, Any]:
    """
    Arguments of PutObject and of CreateMultipartUpload alike.

    Never a Content-Encoding: readers would decompress without being asked, and find other bytes than the manifest says.
    """
    arguments: dict[str, Any] = {
        "ContentType": content_type,
        "Metadata": dict(metadata),
        "StorageClass": options.storage_class,
        "ServerSideEncryption": options.sse,
        "SSEKMSKeyId": options.kms_key_id,
        "Tagging": urlencode(options.tags_for(metadata), quote_via=quote) or None,
    }
    return {name: value for name, value in arguments.items() if value is not None}


class Body:
    """
    The body of a PUT, which aiohttp sends slice by slice without copying the whole of it.

    As bytes or BytesIO it would be copied once more by asyncio's transport, or read in 64 KiB steps through a thread
    pool. botocore needs the file-like methods: it measures the body, and rewinds it before it tries again.
    """

    def __init__(self, data: bytes | bytearray) -> None:
        self._view = memoryview(data)
        self._position = 0

    def __len__(self) -> int:
        return len(self._view)

    def __bool__(self) -> bool:
        return True  # an empty body is a body, too

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        for start in range(0, len(self._view), _SLICE):
            yield self._view[start : start + _SLICE]

    def read(self, size: int = -1) -> memoryview:
        end = len(self._view) if size < 0 else self._position + size
        piece = self._view[self._position : end]
        self._position += len(piece)
        return piece

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, len(self._view))[whence]
        return self._position

    def tell(self) -> int:
        return self._position


def crc32_of(data: bytes | bytearray | memoryview) -> str:
    """CRC32 as S3 writes it: big-endian, base64."""
    return b64encode(crc32(data).to_bytes(4, "big")).decode()


def sha256_of(data: bytes | bytearray | memoryview) -> str:
    """SHA-256 as S3 writes it: base64."""
    return b64encode(hashlib.sha256(data).digest()).decode()


def checksum_argument(*, crc32: str, sha256: str | None) -> dict[str, str]:
    """The one checksum that a call names: S3 doesn't take two."""
    return {"ChecksumCRC32": crc32} if sha256 is None else {"ChecksumSHA256": sha256}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """
    What S3 will report of an object. It follows from the object's parts.

    The SHA-256 of a multipart upload can't be in its metadata, which is fixed before the first byte is known.
    """

    crc32: str
    """For a multipart upload the composite one: CRC32 of the parts' CRC32s, and `-` and their number."""
    etag: str | None
    """MD5, likewise; None where the store's ETags aren't MD5."""
    sha256: str | None
    """SHA-256, likewise; None where the store wasn't told those of the parts."""

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
        Compare with what the store reports. Each may be None, or in a form of its own: an ETag isn't MD5 under SSE-KMS.

        One that agrees is proof. Where none can be compared, nothing speaks against the object.
        """
        etag = etag.strip('"') if etag is not None else None
        if etag is not None and not _MD5_ETAG.fullmatch(etag):
            etag = None
        pairs = ((self.crc32, crc32), (self.sha256, sha256), (self.etag, etag))
        comparable = [mine == theirs for mine, theirs in pairs if mine is not None and theirs is not None]
        return not comparable or any(comparable)


def _composite(of_parts: Sequence[str], of_bytes: Callable[[bytes], str]) -> str:
    """The checksum of the parts' checksums."""
    return f"{of_bytes(b''.join(map(b64decode, of_parts)))}-{len(of_parts)}"


def _composite_etag(parts: Sequence[UploadedPart]) -> str | None:
    etags = [part.etag.strip('"') for part in parts]
    if not all(len(etag) == 32 and _MD5_ETAG.fullmatch(etag) for etag in etags):
        return None
    digest = hashlib.md5(b"".join(map(bytes.fromhex, etags)), usedforsecurity=False)
    return f"{digest.hexdigest()}-{len(parts)}"
