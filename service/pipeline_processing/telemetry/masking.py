"""
The mask over all text that leaves the process: logs, spans, events, history, dead letters, errors, answers.

It hides this process's secrets, which it knows by value, in any of the forms of `spellings.py`; and whatever looks like
another secret: passwords and queries in URLs, `password=…`, bearer tokens. Rows of data never pass through it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from threading import Lock
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pipeline_processing.telemetry.spellings import SHORT, Spelling, basic_auth, spellings_of

MASK = "***"

_URL_PASSWORD = re.compile(r"(://[^\s/?#:@'\"]*):[^\s/?#'\"]+@")
_URL_USER = re.compile(r"(https?://)[^\s/?#:@'\"]+@")
_WORD = re.compile(r"[^\s'\"<>]+")
_HTTP = re.compile(r"https?://")
_QUERY_VALUE = re.compile(r"=[^&]*")
_ASSIGNED_SECRET = re.compile(
    r"(?i)\b((?:ssl)?password|passwd|(?:aws_)?secret_access_key|X-Amz-Signature|X-Amz-Security-Token)"
    r"(\s*=\s*)('[^']*'|\"[^\"]*\"|[^\s&;,'\"]+)"
)
_AUTHORIZATION = re.compile(r"\b((?i:bearer|basic))(\s+)(?=.[a-z._~/-]*[A-Z0-9=+])[A-Za-z0-9._~+/=-]{8,}")
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[_-])(?:dsn|password|passwd|secret|secret_access_key|access_key_id|api[_-]?key|token|cookie"
    r"|authorization)$"
)
_CUT_OFF = "…"
"""Marks where this service cuts a text off, perhaps in the middle of a secret."""
_MOST_CUTS = 40
_LEAST_LEFT = 4
"""So many characters of a secret before a cut are masked. Fewer reveal little, and are the end of many words."""


class Mask:
    """The secrets that are known so far, and text without them. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._secrets: frozenset[str] = frozenset()
        self._open: frozenset[str] = frozenset()
        self._spellings: tuple[Spelling, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as what it knows, for a child process."""
        return _knowing, (self._secrets, self._open)

    def know(self, secrets: Iterable[str], *, openly: Iterable[str] = ()) -> None:
        """
        Mask these from now on: of a Postgres DSN its password, of another URL also the whole URL and its path.

        `openly` are public words, such as a user's name. A secret that equals one isn't masked by its value: a mask in
        place of a public word would reveal the secret.
        """
        found, public = set[str](), set(openly)
        for secret in secrets:
            for part, is_public in _parts(secret):
                (public if is_public else found).add(part)
        with self._lock:
            if found <= self._secrets and public <= self._open:
                return
            self._secrets |= found
            self._open |= public
            self._spellings = tuple(
                spelling for secret in self._secrets - self._open if secret for spelling in spellings_of(secret)
            )

    def know_all_in(self, holder: object) -> None:
        """The same for every SecretStr in models, mappings, lists and dataclasses."""
        self.know(_secrets_in(holder))

    def text(self, text: str) -> str:
        """`postgresql://user:secret@host` → `postgresql://user:***@host`, and so on."""
        text = self._without_known(text)
        # Look first for a word that the pattern needs: matching the pattern takes many times as long.
        if "://" in text:
            text = _URL_USER.sub(rf"\1{MASK}@", _URL_PASSWORD.sub(rf"\1:{MASK}@", text))
            text = _WORD.sub(_query_masked, text)
        lower = text.lower()
        if "=" in text and any(word in lower for word in ("passw", "secret", "x-amz")):
            text = _ASSIGNED_SECRET.sub(rf"\1\2{MASK}", text)
        if "bearer" in lower or "basic" in lower:
            text = _AUTHORIZATION.sub(rf"\1\2{MASK}", text)
        return text

    def value(self, value: Any, *, name: str = "") -> Any:
        """
        The same for any value: mappings, also their keys, and lists are masked inside, other objects become text.

        A value whose `name` is that of a secret becomes a mask.
        """
        if value is not None and names_a_secret(name):
            return MASK
        match value:
            case None | bool():
                return value
            case str():
                return self.text(value)
            case Mapping():
                return {self._unless_masked(key): self.value(item, name=str(key)) for key, item in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self.value(item) for item in value]
            case int() | float():
                return self._unless_masked(value)
            case _:
                return self.text(str(value))

    def _unless_masked(self, value: Any) -> Any:
        """The value itself, unless its text has to be masked."""
        text = str(value)
        masked = self.text(text)
        return value if masked == text else masked

    def _without_known(self, text: str) -> str:
        found = [span for spelling in self._spellings if spelling.text in text for span in spelling.spans(text)]
        if _CUT_OFF in text:
            found += self._cut_off(text)
        if not found:
            return text
        masked, at = [], 0
        for start, end in _merged(found):
            masked += [text[at:start], MASK]
            at = end
        return "".join([*masked, text[at:]])

    def _cut_off(self, text: str) -> Iterator[tuple[int, int]]:
        """Where the beginnings of secrets stand before a cut."""
        cuts = [found.start() for found in re.finditer(_CUT_OFF, text)]
        # This service cuts at the ends of a text. Many cuts are somebody else's, and would take long.
        for cut in cuts if len(cuts) <= _MOST_CUTS else [*cuts[: _MOST_CUTS // 2], *cuts[-_MOST_CUTS // 2 :]]:
            for spelling in self._spellings:
                before = text[max(0, cut - len(spelling.text)) : cut]
                if spelling.text[:_LEAST_LEFT] not in before:
                    continue
                for size in range(len(before), _LEAST_LEFT - 1, -1):
                    if before.endswith(spelling.text[:size]):
                        yield cut - size, cut
                        break


def _knowing(secrets: Iterable[str], openly: Iterable[str]) -> Mask:
    mask = Mask()
    mask.know(secrets, openly=openly)
    return mask


def names_a_secret(name: str) -> bool:
    """Whether a value of this name is one to hide: `password`, `s3_secret_access_key`, `dsn`, …"""
    return _SECRET_NAME.search(name) is not None


def _query_masked(word: re.Match[str]) -> str:
    """A word, which may be a URL of HTTP, without the values of its query."""
    text = word[0]
    if "?" not in text or (url := _HTTP.search(text)) is None or (mark := text.find("?", url.end())) < 0:
        return text
    query, fragment, rest = text[mark + 1 :].partition("#")
    masked = _QUERY_VALUE.sub(f"={MASK}", query) if "=" in query else MASK if query else ""
    return text[: mark + 1] + masked + fragment + rest


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same places in order, without overlaps."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _parts(secret: str) -> Iterator[tuple[str, bool]]:
    """The parts of a secret to mask, and those that are public, marked with True."""
    try:
        url = urlsplit(secret.strip())
    except ValueError:
        url = urlsplit("")
    is_dsn = url.scheme in ("postgres", "postgresql")
    if not is_dsn:
        yield secret.strip(), False
        # Text is shown line by line. The frame of a key in PEM is no secret, nor is a line with only a brace.
        lines = [line.strip() for line in secret.splitlines()]
        yield from ((line, False) for line in lines if len(line) >= SHORT and not line.startswith("-----"))
        if secret.lower().startswith(("bearer ", "basic ")):
            yield secret.partition(" ")[2].strip(), False
    if not (url.netloc or is_dsn):
        return
    user, _, password = url.netloc.rpartition("@")[0].partition(":")
    query = dict(parse_qsl(url.query))
    for one in (password, query.get("password", ""), query.get("sslpassword", "")):
        if one:
            yield one, False
            yield unquote(one), False
            yield basic_auth(unquote(user), unquote(one)), False
    if not is_dsn:
        yield url.path.strip("/"), False
        return
    hosts = (host.rpartition(":")[0] or host for host in url.netloc.rpartition("@")[2].split(","))
    for word in (user, *hosts, url.path.strip("/"), query.get("user", ""), query.get("dbname", "")):
        if word:
            yield unquote(word), True


def _secrets_in(holder: object) -> Iterator[str]:
    from pydantic import BaseModel, SecretStr  # only here: `--help` is quick without

    match holder:
        case SecretStr():
            yield holder.get_secret_value()
        case BaseModel():
            for _, value in holder:
                yield from _secrets_in(value)
        case Mapping():
            for value in holder.values():
                yield from _secrets_in(value)
        case list() | tuple() | set() | frozenset():
            for value in holder:
                yield from _secrets_in(value)
        case _ if is_dataclass(holder) and not isinstance(holder, type):
            for field in fields(holder):
                yield from _secrets_in(getattr(holder, field.name))
