"""
JSON that is read value by value as it arrives, with exact numbers.

Not ijson: its C backend (3.6.0) ends the process on a number of 5,000 digits, takes memory in the square of the depth
of brackets, makes `?` of half a surrogate pair, and is five times slower than this.
"""

import codecs
import json
import re
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from pipeline_processing.errors import SourceDataInvalid, UpstreamUnavailable

_PIECE_BYTES = 64 * 1024
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"[-+.0-9eE]*")
_DIGITS_BEFORE_POINT = 131_072
_DIGITS_AFTER_POINT = 16_383
"""What Postgres's numeric has, too."""
_PLAIN_LENGTH = 640
"""Up to this Python reads integers, whatever its limit is set to."""


class NotJson(SourceDataInvalid):
    """The text isn't JSON, or none that can be kept."""


class JsonText:
    """
    A document, as `read` gives its bytes; at its end, or when it breaks off, `read` gives none.

    `limit` is the longest value in characters, and what all numbers in it may take once they are written out in
    digits. `is_whole` says whether HTTP has checked that nothing is missing at the end.
    """

    def __init__(self, read: Callable[[int], Awaitable[bytes]], *, limit: int, is_whole: bool) -> None:
        self._read = read
        self._limit = limit
        self._is_whole = is_whole
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._ended = False
        self._spare = limit
        self._scan = json.JSONDecoder(
            parse_float=self._number, parse_int=self._integer, parse_constant=_no_constant
        ).raw_decode
        self.taken = 0
        """Characters of all values so far."""

    async def peek(self) -> str:
        """The next character that isn't space; empty at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            assert found is not None, "it matches nothing, too"
            self._at = found.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not await self._more():
                return ""

    async def take(self, character: str) -> None:
        """Pass that character, which must be next."""
        if await self.peek() != character:
            raise self.fault(f"{character!r} should stand")
        self._at += 1

    async def ended(self, closing: str) -> bool:
        """After a value: pass a comma (False), or the end of the list or object (True)."""
        mark = await self.peek()
        if mark not in (",", closing):
            raise self.fault(f"',' or {closing!r} should stand")
        self._at += 1
        return mark == closing

    async def key(self) -> str:
        """A key and the colon after it."""
        if await self.peek() != '"':
            raise self.fault("a key should stand")
        key = await self.value()
        await self.take(":")
        assert isinstance(key, str), "it begins with a quote"
        return key

    async def value(self) -> Any:
        """The next value, whole: numbers with a point or an exponent are Decimal."""
        await self.peek()
        while True:
            self._spare = self._limit
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                # Perhaps only the rest is missing. Twice as much before the next try keeps the work in proportion.
                if not await self._more(len(self._text) - self._at):
                    raise self.fault(f"there is {error.msg!r}") from None
                continue
            except RecursionError:
                raise NotJson("a value is nested too deeply to be read.") from None
            if self._may_go_on(end) and await self._more():
                continue
            self.taken += end - self._at
            self._at = end
            return value

    def _may_go_on(self, end: int) -> bool:
        """Whether a value that seems to end there may be the first digits of a number: `1` of `1.5`, cut at `1.`."""
        rest = _NUMBER.match(self._text, end)
        return rest is not None and rest.end() == len(self._text) and not self._ended

    async def _more(self, characters: int = 1) -> bool:
        """Read on by about so much; False if that was all."""
        if len(self._text) - self._at > self._limit:
            raise NotJson(
                f"a value is longer than the {self._limit:,} characters that are kept here, or isn't JSON. Ask for "
                "smaller records."
            )
        pieces = [self._text[self._at :]]
        missing = max(1, min(characters, self._limit))
        while missing > 0 and not self._ended:
            piece = await self._read(_PIECE_BYTES)
            self._ended = not piece
            try:
                pieces.append(self._decode.decode(piece, final=self._ended))
            except UnicodeDecodeError:
                if self._ended:
                    break  # in the middle of a character
                raise NotJson("its text isn't UTF-8.") from None
            missing -= len(pieces[-1])
        arrived = any(pieces[1:])
        self._text, self._at = "".join(pieces), 0
        return arrived

    def fault(self, what: str) -> SourceDataInvalid | UpstreamUnavailable:
        """What to raise where the text can't go on like this."""
        if self._ended and not self._is_whole:
            return UpstreamUnavailable("its connection was closed before its JSON was complete. It is tried again.")
        if self._ended and self._at == len(self._text):
            return NotJson(f"it ends where {what.removeprefix('there is ')}; so it isn't JSON, or only a part of it.")
        return NotJson(f"it isn't JSON: {what}.")

    def _number(self, digits: str) -> Decimal:
        try:
            number = Decimal(digits)
        except InvalidOperation:  # an exponent of more digits than Decimal has
            raise NotJson(_TOO_MANY_DIGITS) from None
        if "e" in digits or "E" in digits or len(digits) > _PLAIN_LENGTH:
            self._check(number)
        return number

    def _integer(self, digits: str) -> int | Decimal:
        # Python's int knows no -0, and is slow to read what is long.
        if digits != "-0" and len(digits) <= _PLAIN_LENGTH:
            return int(digits)
        return self._number(digits)

    def _check(self, number: Decimal) -> None:
        """`1e131071` takes eight characters here, and 131,072 once it is written."""
        exponent = number.as_tuple().exponent
        assert isinstance(exponent, int), "JSON's numbers are finite"
        before = max(number.adjusted(), exponent) + 1
        if before > _DIGITS_BEFORE_POINT or -exponent > _DIGITS_AFTER_POINT:
            raise NotJson(_TOO_MANY_DIGITS)
        self._spare -= max(before, 0) + max(-exponent, 0)
        if self._spare < 0:
            raise NotJson(f"the numbers of one value have more than the {self._limit:,} digits that are kept here.")


_TOO_MANY_DIGITS = (
    f"a number has more than {_DIGITS_BEFORE_POINT:,} digits before the point, or {_DIGITS_AFTER_POINT:,} after it."
)


def _no_constant(name: str) -> Any:
    raise NotJson(f"it has {name}, which isn't JSON.")
