"""
A streaming JSON reader with exact numbers.

It replaces ijson, whose C backend (3.6.0) crashes on a number of 5,000 digits, needs memory quadratic in the nesting
depth, turns lone surrogates into `?`, and is five times slower.
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
"""The limits of Postgres's numeric."""
_PLAIN_LENGTH = 640
"""Python parses integers of this length regardless of its configured limit."""


class NotJson(SourceDataInvalid):
    """The text isn't JSON, or exceeds a limit."""


class JsonText:
    """
    Reads a document from `read`, which returns no bytes at the end, or when the connection is lost.

    `limit` is the maximum length of a value in characters, and the maximum digits of all numbers in it without
    exponents. `is_whole` says whether HTTP detects a truncated body.
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
        """Total characters of the values read so far."""

    async def peek(self) -> str:
        """Return the next character that isn't white space; empty at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            assert found is not None, "it also matches the empty string"
            self._at = found.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not await self._more():
                return ""

    async def take(self, character: str) -> None:
        """Consume this character, which must be next."""
        if await self.peek() != character:
            raise self.fault(f"expected {character!r}")
        self._at += 1

    async def ended(self, closing: str) -> bool:
        """After a value, consume a comma (return False), or the end of the list or object (return True)."""
        mark = await self.peek()
        if mark not in (",", closing):
            raise self.fault(f"expected ',' or {closing!r}")
        self._at += 1
        return mark == closing

    async def key(self) -> str:
        """Read a key and the colon after it."""
        if await self.peek() != '"':
            raise self.fault("expected a key")
        key = await self.value()
        await self.take(":")
        assert isinstance(key, str), "it begins with a quote"
        return key

    async def value(self) -> Any:
        """Read the next value. Numbers with a point or an exponent are Decimal."""
        await self.peek()
        while True:
            self._spare = self._limit
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                # The rest may not have arrived. Doubling the text before each retry keeps the total work linear.
                if not await self._more(len(self._text) - self._at):
                    raise self.fault(f"the parser reports {error.msg!r}") from None
                continue
            except RecursionError:
                raise NotJson("a value is nested too deeply to be read.") from None
            if self._may_continue(end) and await self._more():
                continue
            self.taken += end - self._at
            self._at = end
            return value

    def _may_continue(self, end: int) -> bool:
        """Return whether a value that seems to end there may be the start of a number, such as `1` of `1.5`."""
        rest = _NUMBER.match(self._text, end)
        return rest is not None and rest.end() == len(self._text) and not self._ended

    async def _more(self, characters: int = 1) -> bool:
        """Read about that many more characters. Returns False at the end."""
        if len(self._text) - self._at > self._limit:
            raise NotJson(
                f"a value is longer than the limit of {self._limit:,} characters, or isn't JSON. Request smaller "
                "records."
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
        """Return the error to raise for unexpected text, or an unexpected end."""
        if self._ended and not self._is_whole:
            return UpstreamUnavailable("its connection was closed before its JSON was complete. It is tried again.")
        if self._ended and self._at == len(self._text):
            return NotJson(f"it isn't JSON, or is truncated: at its end, {what}.")
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
        # Python's int has no -0, and is slow to parse long numbers.
        if digits != "-0" and len(digits) <= _PLAIN_LENGTH:
            return int(digits)
        return self._number(digits)

    def _check(self, number: Decimal) -> None:
        """Limit digits: `1e131071` has eight characters in JSON, but 131,072 digits when written."""
        exponent = number.as_tuple().exponent
        assert isinstance(exponent, int), "JSON's numbers are finite"
        before = max(number.adjusted(), exponent) + 1
        if before > _DIGITS_BEFORE_POINT or -exponent > _DIGITS_AFTER_POINT:
            raise NotJson(_TOO_MANY_DIGITS)
        self._spare -= max(before, 0) + max(-exponent, 0)
        if self._spare < 0:
            raise NotJson(f"the numbers of one value have more than {self._limit:,} digits.")


_TOO_MANY_DIGITS = (
    f"a number has more than {_DIGITS_BEFORE_POINT:,} digits before the point, or {_DIGITS_AFTER_POINT:,} after it."
)


def _no_constant(name: str) -> Any:
    raise NotJson(f"it has {name}, which isn't JSON.")
