"""Functions of text. Places count characters from 1, as in SQL."""

import re
from collections.abc import Callable

from pipeline_processing.expressions.refusals import RowFault

MAX_LENGTH = 64 * 1024**2
"""Characters of the longest text that REPLACE makes."""


class _Letters(dict[int, int]):
    """
    Characters to their other case, one to one, as in Postgres's locale C.UTF-8.

    Python's own `lower` and `upper` may give several characters for one: `ß` to `SS`.
    """

    def __init__(self, *, upper: bool) -> None:
        super().__init__({} if upper else {0x130: ord("i")})
        self._upper = upper

    def __missing__(self, code: int) -> int:
        character = chr(code)
        # Greek letters with an iota below have their single capital as the title form.
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


def trimmed(text: str, characters: str = " ") -> str:
    return text.strip(characters) if characters else text


def trimmed_left(text: str, characters: str = " ") -> str:
    return text.lstrip(characters) if characters else text


def trimmed_right(text: str, characters: str = " ") -> str:
    return text.rstrip(characters) if characters else text


def substring(text: str, start: int, length: int | None = None) -> str:
    """Places before the first character count too: `substring('abc', 0, 2)` is `a`."""
    if length is None:
        return text[max(start - 1, 0) :]
    if length < 0:
        raise RowFault("the length of a substring is negative")
    return text[max(start - 1, 0) : max(start - 1 + length, 0)]


def left(text: str, count: int) -> str:
    """With a negative count, all but the last ones."""
    return text[:count]


def right(text: str, count: int) -> str:
    """With a negative count, all but the first ones."""
    return text[-count:] if count else ""


def replaced(text: str, old: str, new: str) -> str:
    if not old:
        return text
    # Without a limit, REPLACE in REPLACE would make gigabytes of a few characters.
    if (growth := len(new) - len(old)) > 0 and len(text) + text.count(old) * growth > MAX_LENGTH:
        raise RowFault("a text grows too long")
    return text.replace(old, new)


def split_part(text: str, delimiter: str, number: int) -> str:
    """The part of that number from 1, or from -1 counting from the end; empty where there is none."""
    if not number:
        raise RowFault("the number of a part is 0, and they count from 1 or from -1")
    parts = text.split(delimiter) if delimiter else [text]
    place = number - 1 if number > 0 else len(parts) + number
    return parts[place] if 0 <= place < len(parts) else ""


def starts_with(text: str, prefix: str) -> bool:
    return text.startswith(prefix)


def concatenated(text: str, more: str) -> str:
    return text + more


def like_pattern(pattern: str) -> Callable[[str], bool]:
    """
    Whether a text is like a pattern: % is any text, _ any character, and \\ takes the next one literally.

    Pieces between % are looked for one after the other, so that no pattern takes more than the text's length times
    its own. Raises RowFault.
    """
    pieces = _pieces(pattern)
    expressions = ["".join(piece) for piece in pieces]
    if len(pieces) <= 2:  # then one expression doesn't try much more than once at each place, and is quicker
        fullmatch = _expression(".*".join(expressions)).fullmatch
        return lambda text: fullmatch(text) is not None
    first, last, last_length = _expression(expressions[0]), _expression(expressions[-1]), len(pieces[-1])
    middle = [_expression(piece) for piece in expressions[1:-1] if piece]

    def matches(text: str) -> bool:
        found = first.match(text)
        for piece in middle:
            if found is None:
                return False
            found = piece.search(text, found.end())
        start = len(text) - last_length
        return found is not None and start >= found.end() and last.match(text, start) is not None

    return matches


def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.DOTALL)


def _pieces(pattern: str) -> list[list[str]]:
    """What stands between the % of a pattern: lists of regular expressions, each for one character."""
    pieces: list[list[str]] = [[]]
    characters = iter(pattern)
    for character in characters:
        if character == "%":
            pieces.append([])
        elif character == "_":
            pieces[-1].append(".")
        elif character == "\\":
            if (escaped := next(characters, None)) is None:
                raise RowFault("a pattern ends in \\, which takes the next character literally")
            pieces[-1].append(re.escape(escaped))
        else:
            pieces[-1].append(re.escape(character))
    return pieces
