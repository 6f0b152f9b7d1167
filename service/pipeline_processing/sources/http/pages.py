"""One page of an API: a JSON document that contains a list of records. It is streamed, never held in memory whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline_processing.errors import SourceDataInvalid
from pipeline_processing.ports import Answer
from pipeline_processing.sources.http.json_text import JsonText

_MOST_KEYS = 20
"""Per object in a message."""
_LONGEST_KEY = 60


@dataclass(frozen=True, slots=True)
class Absent:
    """A path of the page doesn't exist: the object at `above` has no `key`."""

    key: str
    above: tuple[str, ...]
    keys: tuple[str, ...]
    """The keys that the object has."""

    def __str__(self) -> str:
        others = f"only {_listed(self.keys)}" if self.keys else "nor any other"
        return f"there is no key {self.key!r}{_under(self.above)}, {others}"


class JsonPage:
    """
    Reads the records at the path `records`, and the value at the path `beside`, which may precede or follow them.

    Paths are keys of nested objects. If `records` is empty, the document itself is the list. Only one value, a record
    or a value beside the records, is in memory at a time.
    """

    def __init__(self, answer: Answer, *, records: Sequence[str], beside: Sequence[str] = (), limit: int) -> None:
        """`limit` is the maximum length of a value in characters."""
        # Without either, HTTP can't distinguish the end of a body from a lost connection (RFC 9112, 8).
        is_whole = "Content-Length" in answer.headers or "Transfer-Encoding" in answer.headers
        self._text = JsonText(answer.read, limit=limit, is_whole=is_whole)
        self._path = tuple(records)
        self._beside = tuple(beside)
        self._reading: bool | None = None
        self.count = 0
        """Records read so far."""
        self.found: Any = None
        """The value at `beside`, or Absent; None without `beside`, and until all records are read."""
        self._keys: list[list[str]] = [[] for _ in range(len(self._path))]
        """Keys of the objects on the path to the records, by depth."""
        self._is_found = False

    async def read(self, *, records: int, characters: int) -> list[Any]:
        """
        Read up to `records` records, or fewer once they have `characters` characters. Empty at the end.

        The records may be any JSON values. Raises SourceDataInvalid if the document isn't such a page, and
        UpstreamUnavailable if it is truncated.
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
        """Skip to the first record. Returns False if there is none."""
        if await self._text.peek() not in ("{", "["):
            raise self._text.fault("expected an object or a list")
        for depth in range(len(self._path)):
            if (first := await self._text.peek()) != "{":
                raise self._no_records(f"there is {_kind_of(first)}{_under(self._path[:depth])}, not an object")
            await self._text.take("{")
            if await self._passed("}") or not await self._find(depth):
                raise self._no_records(str(self._absent(self._path, depth)))
        if (first := await self._text.peek()) != "[":
            raise self._no_records(f"there is {_kind_of(first)}, not a list")
        await self._text.take("[")
        return not await self._passed("]")

    async def _finish(self) -> None:
        """Read the rest of the document, after the records."""
        for depth in reversed(range(len(self._path))):
            if not await self._text.ended("}") and await self._find(depth):
                raise SourceDataInvalid(f"it has the key {self._path[depth]!r} twice, on the way to its records.")
        if await self._text.peek():
            raise SourceDataInvalid("it isn't JSON: there is more text after its end.")
        if self._beside and not self._is_found:
            # Neither path contains the other, so they differ at some depth.
            depth = next(at for at, key in enumerate(self._beside) if key != self._path[at])
            self.found = self._absent(self._beside, depth)

    async def _find(self, depth: int) -> bool:
        """Skip to the value of the path's key in an object. Returns False at the object's end."""
        wanted = self._beside[depth:] if self._beside[:depth] == self._path[:depth] else ()
        while True:
            key = await self._text.key()
            if len(self._keys[depth]) <= _MOST_KEYS:
                self._keys[depth].append(key)
            if key == self._path[depth]:
                return True
            value = await self._text.value()
            if wanted and key == wanted[0]:
                self.found = _inside(value, self._beside, len(self._beside) - len(wanted) + 1)
                self._is_found = True
            if await self._text.ended("}"):
                return False

    async def _passed(self, closing: str) -> bool:
        if await self._text.peek() != closing:
            return False
        await self._text.take(closing)
        return True

    def _absent(self, path: Sequence[str], depth: int) -> Absent:
        return Absent(path[depth], tuple(path[:depth]), tuple(self._keys[depth]))

    def _no_records(self, why: str) -> SourceDataInvalid:
        where = f"at {'.'.join(self._path)!r}" if self._path else "as the whole page"
        return SourceDataInvalid(f"it has no list of records {where}: {why}. Correct `records` in the job config.")


def _inside(value: Any, path: Sequence[str], depth: int) -> Any:
    """Return the value at the rest of a path, from `depth` on; None if there is null on the way, or Absent."""
    for at in range(depth, len(path)):
        if value is None:
            return None
        if value == []:  # PHP writes empty objects like this
            value = {}
        if not isinstance(value, dict):
            raise SourceDataInvalid(
                f"it has no object at {'.'.join(path[:at])!r}, on the way to {'.'.join(path)!r}. Correct `pages` in "
                "the job config."
            )
        if path[at] not in value:
            return Absent(path[at], tuple(path[:at]), tuple(value))
        value = value[path[at]]
    return value


def _under(above: Sequence[str]) -> str:
    return f" in {'.'.join(above)!r}" if above else ""


def _listed(keys: Sequence[str]) -> str:
    shown = [repr(key if len(key) <= _LONGEST_KEY else f"{key[:_LONGEST_KEY]}…") for key in keys[:_MOST_KEYS]]
    return ", ".join([*shown, *(["…"] if len(keys) > _MOST_KEYS else [])])


def _kind_of(first: str) -> str:
    """Name the kind of a value by its first character."""
    return {"{": "an object", "[": "a list", '"': "text", "n": "null", "t": "true", "f": "false"}.get(first, "a number")
