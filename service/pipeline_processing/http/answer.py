"""An answer of an API, whose body is read piece by piece."""

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy

from pipeline_processing.http.errors import translated

PIECE_BYTES = 64 * 1024


class HttpAnswer:
    """See `ports.Answer`. Its first piece has arrived already. `shown_as` is the URL as messages show it."""

    def __init__(self, response: aiohttp.ClientResponse, *, url: str, shown_as: str, first: bytes) -> None:
        self.url = url
        self._shown_as = shown_as
        self.headers = _merged(response.headers)
        self._response = response
        self._first = first

    async def read(self, size: int = -1) -> bytes:
        """See `ports.Answer`."""
        if size < 0:
            pieces = []
            while piece := await self.read(PIECE_BYTES):
                pieces.append(piece)
            return b"".join(pieces)
        if self._first:
            piece, self._first = self._first[:size], self._first[size:]
            return piece
        with translated(self._shown_as):
            return await self._response.content.read(size)

    def close(self) -> None:
        """Give the connection back if all has been read, and break it off if not."""
        self._response.close()


def _merged(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Each name once: several headers of one name mean the same as one with commas (RFC 9110, 5.3)."""
    return CIMultiDict({name: ", ".join(headers.getall(name)) for name in headers})
