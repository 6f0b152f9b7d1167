"""The body of a PUT, fed to the socket in slices."""

from collections.abc import AsyncIterator

_SLICE = 256 * 1024


class Body:
    """
    Bytes that aiohttp sends slice by slice, without copying the whole of them.

    Passed as bytes or BytesIO instead, they would be copied once more by asyncio's own transport, or read in
    64 KiB steps through a thread pool. botocore wants the file-like half of this: to measure, and to rewind
    before it tries again.
    """

    def __init__(self, data: bytes | bytearray) -> None:
        self._view = memoryview(data)
        self._position = 0

    def __len__(self) -> int:
        return len(self._view)

    def __bool__(self) -> bool:
        return True  # an empty body is one, too

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
