"""Text functions, and conversions of booleans and uuids. Positions count characters from 1, as in SQL."""

import re
from collections.abc import Callable

from pipeline_processing.expressions.floats import SPACE
from pipeline_processing.expressions.types import RowFault

MAX_LENGTH = 64 * 1024**2
"""Maximum length of the result of REPLACE, in characters."""


class _Letters(dict[int, int]):
    """
    Maps characters to lower or upper case, one to one, as in Postgres's locale C.UTF-8.

    Python's `lower` and `upper` may map one character to several: `ß` to `SS`.
    """

    def __init__(self, *, upper: bool) -> None:
        super().__init__({} if upper else {0x130: ord("i")})
        self._upper = upper

    def __missing__(self, code: int) -> int:
        character = chr(code)
        # For Greek letters with iota subscript, only the title case is a single character.
        forms = (character.upper(), character.title()) if self._upper else (character.lower(),)
        other = next((ord(form) for form in forms if len(form) == 1), code)
        self[code] = other
        return other


_LOWER = _Letters(upper=False)
_UPPER = _Letters(upper=True)


def lower(text: str) -> str:
    return text.lower() if text.isascii() else text.translate(_LOWER)


def upper(text: str) -> str:
    return text.upper() if text.isascii() else text.translate(_UPPER)


def substring(text: str, start: int, length: int | None = None) -> str:
    """Positions before the first character count: `substring('abc', 0, 2)` is `a`."""
    if length is None:
        return text[max(start - 1, 0) :]
    if length < 0:
        raise RowFault("the length of a substring is negative")
    return text[max(start - 1, 0) : max(start - 1 + length, 0)]


def left(text: str, count: int) -> str:
    """Return the first `count` characters, or all but the last `-count`."""
    return text[:count]


def right(text: str, count: int) -> str:
    """Return the last `count` characters, or all but the first `-count`."""
    return text[-count:] if count else ""


def replaced(text: str, old: str, new: str) -> str:
    if not old:
        return text
    # Without a limit, nested REPLACEs could turn a few characters into gigabytes.
    if (growth := len(new) - len(old)) > 0 and len(text) + text.count(old) * growth > MAX_LENGTH:
        raise RowFault("a text grows too long")
    return text.replace(old, new)


def split_part(text: str, delimiter: str, number: int) -> str:
    """Return the part with this number, from 1, or from -1 backwards; empty if there is none. Raises RowFault for 0."""
    if not number:
        raise RowFault("parts are numbered from 1, or from -1 backwards, and this is 0")
    parts = text.split(delimiter) if delimiter else [text]
    place = number - 1 if number > 0 else len(parts) + number
    return parts[place] if 0 <= place < len(parts) else ""


# -- booleans and uuids --------------------------------------------------------------------------

_UUID = re.compile(r"(?P<open>\{)?(?P<digits>(?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4})(?(open)\})")


def boolean_of(text: str) -> bool:
    """Parse `true`, `yes`, `on`, `1`, their opposites, and unambiguous prefixes of these. Raises RowFault."""
    word = text.strip(SPACE).lower()
    for whole, truth in (("true", True), ("false", False), ("yes", True), ("no", False), ("on", True), ("off", False)):
        if word and word != "o" and whole.startswith(word):
            return truth
    if word in ("1", "0"):
        return word == "1"
    raise RowFault("the text isn't a boolean")


def boolean_text(truth: bool) -> str:
    return "true" if truth else "false"


def uuid_of(text: str) -> str:
    """Parse a uuid as Postgres does: in any case, with optional braces and hyphens. Raises RowFault."""
    match = _UUID.fullmatch(text)
    if match is None:
        raise RowFault("the text isn't a uuid")
    digits = match["digits"].replace("-", "").lower()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


# -- patterns ------------------------------------------------------------------------------------


def like_pattern(pattern: str) -> Callable[[str], re.Match[str] | None]:
    """
    Return a function that matches text or returns None: % is any text, _ any character, \\ escapes the next character.

    A piece between two % is matched only at its first occurrence (an atomic group), so the time is at most proportional
    to the length of the text times that of the pattern. Raises RowFault.
    """
    pieces = [""]
    characters = iter(pattern)
    for character in characters:
        if character == "%":
            pieces.append("")
        elif character == "_":
            pieces[-1] += "."
        elif character != "\\":
            pieces[-1] += re.escape(character)
        elif (escaped := next(characters, None)) is not None:
            pieces[-1] += re.escape(escaped)
        else:
            raise RowFault("a pattern ends in \\, which takes the next character literally")
    first, *middle, last = (pieces[0], "") if len(pieces) == 1 else pieces
    searched = "".join(f"(?>.*?{piece})" for piece in middle if piece)
    anything = ".*" if len(pieces) > 1 else ""
    return re.compile(f"{first}{searched}{anything}{last}", re.DOTALL).fullmatch


def is_matched(match: Callable[[str], re.Match[str] | None], text: str) -> bool:
    return match(text) is not None
