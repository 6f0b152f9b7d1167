"""One page of an API: a JSON document with a list of records in it, never held whole."""

from collections.abc import Sequence
from typing import Any

from pipeline_processing.errors import SourceDataInvalid
from pipeline_processing.http.json_text import JsonText
from pipeline_processing.ports import Answer


class JsonPage:
    """
    Reads the records where `records` leads, and afterwards has what `beside` leads to, before or after them.

    Both are keys of objects inside each other; no keys at all: the document itself is the list. Values beside the
    records are read one at a time, so only a record, or one of those, is ever in memory.
    """

    def __init__(self, answer: Answer, *, records: Sequence[str], beside: Sequence[str] = (), limit: int) -> None:
        """`limit` is the longest value in characters."""
        # Without either, HTTP can't tell the end of a body from a lost connection (RFC 9112, 8).
        is_whole = "Content-Length" in answer.headers or "Transfer-Encoding" in answer.headers
        self._text = JsonText(answer.read, limit=limit, is_whole=is_whole)
        self._path = tuple(records)
        self._wanted = tuple(beside)
        self._reading: bool | None = None
        self.count = 0
        """Records read so far."""
        self.found: Any = None
        """What stands at `beside`; None if nothing, or before all records are read."""

    async def read(self, *, records: int, characters: int) -> list[Any]:
        """
        The next records: up to so many, and no more once they have so many characters. None at the end.

        They are whatever stands in the list. Raises SourceDataInvalid if the document isn't such a page, and
        UpstreamUnavailable if it breaks off.
        """
        if self._reading is None:
            self._reading = await self._begin()
        read: list[Any] = []
        enough = self._text.taken + characters
        while self._reading and len(read) < records and self._text.taken < enough:
            read.append(await self._text.value())
            self.count += 1
            self._reading = not await self._text.ended("]")
        if not self._reading and not read:
            await self._finish()
        return read

    async def _begin(self) -> bool:
        """Go to the first record; False if there is none."""
        if await self._text.peek() not in ("{", "["):
            raise self._text.fault("an object or a list should stand")
        for depth in range(len(self._path)):
            if await self._text.peek() != "{":
                raise self._no_records("there is no object")
            await self._text.take("{")
            if await self._passed("}") or not await self._find(depth):
                raise self._no_records("there is no such key")
        if await self._text.peek() != "[":
            raise self._no_records("there is no list")
        await self._text.take("[")
        return not await self._passed("]")

    async def _finish(self) -> None:
        """Read what stands after the records."""
        for depth in reversed(range(len(self._path))):
            if not await self._text.ended("}") and await self._find(depth):
                raise SourceDataInvalid(f"it has the key {self._path[depth]!r} twice, on the way to its records.")
        if await self._text.peek():
            raise SourceDataInvalid("something stands after its end, so it isn't JSON.")

    async def _find(self, depth: int) -> bool:
        """Pass the members of an object up to the value under the path's key; False at the object's end."""
        wanted = self._wanted[depth:] if self._wanted[:depth] == self._path[:depth] else ()
        while True:
            key = await self._text.key()
            if key == self._path[depth]:
                return True
            value = await self._text.value()
            if wanted and key == wanted[0]:
                self.found = _inside(value, wanted[1:])
            if await self._text.ended("}"):
                return False

    async def _passed(self, closing: str) -> bool:
        if await self._text.peek() != closing:
            return False
        await self._text.take(closing)
        return True

    def _no_records(self, why: str) -> SourceDataInvalid:
        where = f"at {'.'.join(self._path)!r}" if self._path else "as the whole page"
        return SourceDataInvalid(f"it has no list of records {where}: {why}. Correct `records` in the job config.")


def _inside(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value
