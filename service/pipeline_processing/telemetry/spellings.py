"""The forms that a secret may take in text: as encoded by URLs, JSON, Python, SQL, XML and HTTP."""

import html
import json
import re
import string
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote, quote_plus

SHORT = 8
"""A secret with fewer characters is matched only as a whole word, as it may be part of other words by chance."""
_BASE64 = string.ascii_letters + string.digits + "+/-_="
_PERCENT = re.compile("%[0-9A-F]{2}")
# Not inside a word, except directly after an escape sequence such as `\n` or `%20`.
_ALONE = r"(?:(?<!\w)|(?<=\\[nrt])|(?<=%[0-9A-Fa-f][0-9A-Fa-f])){}(?!\w)"


@dataclass(frozen=True)
class Spelling:
    """One form of a secret. `alone`: match only a whole word; `whole`: mask the whole base64 word around it."""

    text: str
    alone: bool = False
    whole: bool = False

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the start and end of each match."""
        for found in self._pattern.finditer(text):
            start, end = found.span()
            if self.whole:
                start = len(text[:start].rstrip(_BASE64))
                end = len(text) - len(text[end:].lstrip(_BASE64))
            yield start, end

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        escaped = re.escape(self.text)
        return re.compile(_ALONE.format(escaped) if self.alone else escaped)


def spellings_of(secret: str) -> set[Spelling]:
    """Return all forms of a non-empty secret, including doubly escaped ones: a repr in JSON, or JSON in JSON."""
    written = {secret}
    for _ in range(2):
        written |= {write(text) for write in _WRITERS for text in written}
    data = _bytes(secret)
    written |= {data.hex(), data.hex().upper(), b64encode(data).decode()}
    found = {Spelling(text, alone=len(secret) < SHORT) for text in written}
    if len(secret) >= SHORT:
        found |= {Spelling(text, whole=True) for text in _inside_base64(data)}
    return found


def basic_auth(user: str, password: str) -> str:
    """Return the credentials of an Authorization header."""
    return b64encode(_bytes(f"{user}:{password}")).decode()


def _inside_base64(data: bytes) -> Iterator[str]:
    """Yield these bytes in base64, for each alignment that they may have in longer data."""
    for before in range(3):
        encoded = b64encode(bytes(before) + data).decode()
        # A character encodes six bits. Those at the ends also contain bits of the adjacent bytes.
        inside = encoded[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        yield inside
        yield inside.replace("+", "-").replace("/", "_")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _percent(text: str) -> str:
    return quote(_bytes(text), safe="")


_WRITERS: tuple[Callable[[str], str], ...] = (
    lambda text: text.replace("'", "''"),
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    # Python escapes single quotes only in strings with both kinds of quotes.
    lambda text: repr(text)[1:-1],
    lambda text: repr(f"{text}'\"")[1 : -len("\\'\"'")],
    lambda text: repr(_bytes(text))[2:-1],
    lambda text: ascii(text)[1:-1],
    html.escape,
    _percent,
    lambda text: quote(_bytes(text)),
    lambda text: quote_plus(_bytes(text)),
    lambda text: _PERCENT.sub(lambda found: found[0].lower(), _percent(text)),
)
