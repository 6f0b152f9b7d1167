"""The forms in which a secret may stand in text: as URLs, JSON, Python, SQL, XML and HTTP write it."""

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
"""Characters. A shorter secret is only found where it stands alone: in other words it is there by chance."""
_BASE64 = string.ascii_letters + string.digits + "+/-_="
_PERCENT = re.compile("%[0-9A-F]{2}")
# Not in a word, but for the escape of a line end or of a character that stands before it.
_ALONE = r"(?:(?<!\w)|(?<=\\[nrt])|(?<=%[0-9A-Fa-f][0-9A-Fa-f])){}(?!\w)"


@dataclass(frozen=True)
class Spelling:
    """One form of a secret. `alone`: only where it is no part of a word; `whole`: with the word that it is part of."""

    text: str
    alone: bool = False
    whole: bool = False

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where it stands, from and to."""
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
    """All forms of a secret, which isn't empty. Twice escaped too: a repr in JSON, or JSON in JSON."""
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
    """What HTTP sends for them."""
    return b64encode(_bytes(f"{user}:{password}")).decode()


def _inside_base64(data: bytes) -> Iterator[str]:
    """The characters that stand for these bytes in base64, wherever in a longer text they are."""
    for before in range(3):
        encoded = b64encode(bytes(before) + data).decode()
        # Six bits a character; those at the ends hold bits of their neighbours as well.
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
    # With both quotes in it, Python escapes the single one.
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
