"""Parts of object requests: bodies, checksums, and creation arguments."""

import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from isal.isal_zlib import crc32

from pipeline_processing.destinations.s3.options import S3ObjectOptions
from pipeline_processing.plan import InlineContent, MultipartUpload, UploadedPart

AS_THE_BUCKET_HAS_IT = S3ObjectOptions()
"""No options: the bucket's defaults apply."""
_SLICE = 1024 * 1024
_SMALL = 64 * 1024
_MD5_ETAG = re.compile(r"[0-9a-f]{32}(-\d+)?")


def creation_arguments(
    *, content_type: str, metadata: Mapping[str, str], options: S3ObjectOptions = AS_THE_BUCKET_HAS_IT
) -> dict[str, Any]:
    """
    Return the arguments that PutObject and CreateMultipartUpload have in common.

    Never sets Content-Encoding: clients would decompress implicitly, and get other bytes than the manifest says.
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


class Pieces:
    """Bytes in the pieces in which they came, because joining them would take time, and memory of its own."""

    def __init__(self) -> None:
        self._pieces: list[bytes | bytearray] = []
        self._size = 0

    def append(self, piece: bytes | memoryview) -> None:
        """Append bytes. Slices are copied: they would keep alive all of what they are of. Small pieces are joined."""
        self._size += len(piece)
        if len(piece) >= _SMALL:
            self._pieces.append(bytes(piece))  # no copy if it is bytes already
            return
        last = self._pieces[-1] if self._pieces else None
        if not isinstance(last, bytearray) or len(last) > _SLICE:
            last = bytearray()
            self._pieces.append(last)
        last += piece

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes | bytearray]:
        return iter(self._pieces)

    def __bytes__(self) -> bytes:
        return b"".join(self._pieces)


Data = bytes | bytearray | Pieces


class Body:
    """
    The body of a PUT, which aiohttp sends slice by slice without copying all of it.

    asyncio's transport would copy bytes once more, and aiohttp would read a BytesIO in 64 KiB steps through a thread
    pool. botocore needs the file-like methods to measure the body, and to rewind it before a retry.
    """

    def __init__(self, data: Data) -> None:
        self._data = data
        self._position = 0

    def __len__(self) -> int:
        return len(self._data)

    def __bool__(self) -> bool:
        return True  # even an empty body must be sent

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        for piece in self._data if isinstance(self._data, Pieces) else (self._data,):
            view = memoryview(piece)
            for start in range(0, len(view), _SLICE):
                yield view[start : start + _SLICE]

    def read(self, size: int = -1) -> bytes:
        end = len(self) if size < 0 else self._position + size
        piece = bytes(self._data)[self._position : end]
        self._position += len(piece)
        return piece

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, len(self))[whence]
        return self._position

    def tell(self) -> int:
        return self._position


def crc32_of(data: bytes | bytearray | memoryview) -> str:
    """Return the CRC32 as S3 encodes it: big-endian, in base64."""
    return encoded_crc32(crc32(data))


def encoded_crc32(value: int) -> str:
    return b64encode(value.to_bytes(4, "big")).decode()


def sha256_of(data: bytes | bytearray | memoryview) -> str:
    """Return the SHA-256 as S3 encodes it: in base64."""
    return b64encode(hashlib.sha256(data).digest()).decode()


def checksum_argument(*, crc32: str, sha256: str | None) -> dict[str, str]:
    """Return the checksum argument of a call, of which S3 accepts only one."""
    return {"ChecksumCRC32": crc32} if sha256 is None else {"ChecksumSHA256": sha256}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """
    The checksums that S3 will report for an object, derived from the object's parts.

    The SHA-256 of a multipart upload can't be in its metadata, which is fixed before the first byte is known.
    """

    crc32: str
    """For a multipart upload, the composite: CRC32 of the parts' CRC32s, `-`, and the number of parts."""
    whole_crc32: str | None
    """CRC32 of all bytes, if it is known."""
    etag: str | None
    """MD5, composed likewise; None where the store's ETags aren't MD5."""
    sha256: str | None
    """SHA-256, composed likewise; None where the parts were sent without one."""

    @classmethod
    def of(cls, staged: MultipartUpload | InlineContent) -> "Fingerprint":
        if isinstance(staged, MultipartUpload):
            sha256s = [part.sha256 for part in staged.parts if part.sha256 is not None]
            return cls(
                crc32=_composite([part.crc32 for part in staged.parts], crc32_of),
                whole_crc32=staged.crc32,
                etag=_composite_etag(staged.parts),
                sha256=_composite(sha256s, sha256_of) if len(sha256s) == len(staged.parts) else None,
            )
        content = b64decode(staged.content)
        etag, crc32 = hashlib.md5(content, usedforsecurity=False).hexdigest(), crc32_of(content)
        return cls(crc32=crc32, whole_crc32=crc32, etag=etag, sha256=sha256_of(content))

    def matches(self, *, crc32: str | None, etag: str | None, sha256: str | None = None) -> bool:
        """
        Compare with what the store reports. Each value may be None or in another form: under SSE-KMS, ETags aren't MD5.

        One checksum that agrees is proof. If none can be compared, the object counts as matching.
        """
        etag = etag.strip('"') if etag is not None else None
        if etag is not None and not _MD5_ETAG.fullmatch(etag):
            etag = None
        own_crc32 = self.crc32 if crc32 is not None and "-" in crc32 else self.whole_crc32 or self.crc32
        pairs = ((own_crc32, crc32), (self.sha256, sha256), (self.etag, etag))
        comparable = [mine == theirs for mine, theirs in pairs if mine is not None and theirs is not None]
        return not comparable or any(comparable)


def _composite(of_parts: Sequence[str], of_bytes: Callable[[bytes], str]) -> str:
    """Return the checksum of the parts' checksums."""
    return f"{of_bytes(b''.join(map(b64decode, of_parts)))}-{len(of_parts)}"


def _composite_etag(parts: Sequence[UploadedPart]) -> str | None:
    etags = [part.etag.strip('"') for part in parts]
    if not all(len(etag) == 32 and _MD5_ETAG.fullmatch(etag) for etag in etags):
        return None
    digest = hashlib.md5(b"".join(map(bytes.fromhex, etags)), usedforsecurity=False)
    return f"{digest.hexdigest()}-{len(parts)}"
