"""
Mask secrets in all text that leaves the process: logs, spans, events, history, dead letters, errors, answers.

Masks this process's secrets by value, in any of the forms of `spellings.py`, and anything that looks like another
secret: passwords and queries in URLs, `password=…`, bearer tokens. Rows of data are never masked.
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
    r"(?i)\b((?:ssl)?password|passwd|(?:aws_)?(?:secret_access_key|session_token)|X-Amz-Signature|X-Amz-Security-Token)"
    r"(\s*=\s*)('[^']*'|\"[^\"]*\"|[^\s&;,'\"]+)"
)
_AUTHORIZATION = re.compile(r"\b((?i:bearer|basic))(\s+)(?=.[a-z._~/-]*[A-Z0-9=+])[A-Za-z0-9._~+/=-]{8,}")
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[_-])(?:dsn|password|passwd|secret|secret_access_key|access_key_id|api[_-]?key|token|cookie"
    r"|authorization)$"
)
_TOKEN = re.compile(r"(?=.*\d).{16,}")
"""A part of a secret URL that looks like a token, so it is a secret by itself."""
_CUT_OFF = "…"
"""Marks where this service truncated a text, perhaps in the middle of a secret."""
_MOST_CUTS = 40
_LEAST_LEFT = 4
"""Fewer characters of a secret before a cut aren't masked: they reveal little, and many words end with them."""


class Mask:
    """Learns secrets, and masks them in text. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._secrets: frozenset[str] = frozenset()
        self._open: frozenset[str] = frozenset()
        self._spellings: tuple[Spelling, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the known secrets, for a child process."""
        return _mask_with, (self._secrets, self._open)

    def know(self, secrets: Iterable[str], *, openly: Iterable[str] = ()) -> None:
        """
        Mask these from now on: a Postgres DSN's password, or of any other URL also the whole URL and its path.

        `openly` are public words, such as a user name. A secret that equals one isn't masked by value, because a masked
        public word would reveal the secret.
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
        """Mask every SecretStr in models, mappings, lists and dataclasses from now on."""
        self.know(_secrets_in(holder))

    def text(self, text: str) -> str:
        """Mask secrets in text, e.g. `postgresql://user:secret@host` → `postgresql://user:***@host`."""
        text = self._without_known(text)
        # First look for a substring that the pattern needs, as matching the pattern is many times slower.
        if "://" in text:
            text = _URL_USER.sub(rf"\1{MASK}@", _URL_PASSWORD.sub(rf"\1:{MASK}@", text))
            text = _WORD.sub(_query_masked, text)
        lower = text.lower()
        if "=" in text and any(word in lower for word in ("passw", "secret", "session_token", "x-amz")):
            text = _ASSIGNED_SECRET.sub(rf"\1\2{MASK}", text)
        if "bearer" in lower or "basic" in lower:
            text = _AUTHORIZATION.sub(rf"\1\2{MASK}", text)
        return text

    def value(self, value: Any, *, name: str = "") -> Any:
        """
        Mask any value: mappings (including keys) and lists recursively; other objects become text.

        If `name` is that of a secret, the whole value is masked.
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
        """Return the value unchanged, unless its text contains something to mask."""
        text = str(value)
        masked = self.text(text)
        return value if masked == text else masked

    def _without_known(self, text: str) -> str:
        found = [span for spelling in self._spellings if spelling.text in text for span in spelling.spans(text)]
        if _CUT_OFF in text:
            found += self._truncated_secrets(text)
        if not found:
            return text
        masked, at = [], 0
        for start, end in _merged(found):
            masked += [text[at:start], MASK]
            at = end
        return "".join([*masked, text[at:]])

    def _truncated_secrets(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the start and end of each beginning of a secret before a cut."""
        cuts = [found.start() for found in re.finditer(_CUT_OFF, text)]
        # This service truncates texts at their ends. More cuts come from elsewhere, and would take long to check.
        for cut in cuts if len(cuts) <= _MOST_CUTS else [*cuts[: _MOST_CUTS // 2], *cuts[-_MOST_CUTS // 2 :]]:
            for spelling in self._spellings:
                before = text[max(0, cut - len(spelling.text)) : cut]
                if spelling.text[:_LEAST_LEFT] not in before:
                    continue
                for size in range(len(before), _LEAST_LEFT - 1, -1):
                    if before.endswith(spelling.text[:size]):
                        yield cut - size, cut
                        break


def _mask_with(secrets: Iterable[str], openly: Iterable[str]) -> Mask:
    mask = Mask()
    mask.know(secrets, openly=openly)
    return mask


def names_a_secret(name: str) -> bool:
    """Whether a value with this name is a secret: `password`, `s3_secret_access_key`, `dsn`, …"""
    return _SECRET_NAME.search(name) is not None


def _query_masked(word: re.Match[str]) -> str:
    """Mask the query's values if the word is an HTTP URL."""
    text = word[0]
    if "?" not in text or (url := _HTTP.search(text)) is None or (mark := text.find("?", url.end())) < 0:
        return text
    query, fragment, rest = text[mark + 1 :].partition("#")
    masked = _QUERY_VALUE.sub(f"={MASK}", query) if "=" in query else MASK if query else ""
    return text[: mark + 1] + masked + fragment + rest


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort the spans, and merge overlapping ones."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _parts(secret: str) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a secret, each with whether it is public."""
    try:
        url = urlsplit(secret.strip())
    except ValueError:
        url = urlsplit("")
    is_dsn = url.scheme in ("postgres", "postgresql")
    if not is_dsn:
        yield secret.strip(), False
        # Text may be shown line by line. The header of a PEM key is no secret, nor is a line with only a brace.
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
        path = url.path.strip("/")
        yield path, False
        tokens = (part for part in (*path.split("/"), *query.values()) if _TOKEN.fullmatch(part))
        yield from ((token, False) for token in tokens)
        return
    hosts = (host.rpartition(":")[0] or host for host in url.netloc.rpartition("@")[2].split(","))
    for word in (user, *hosts, url.path.strip("/"), query.get("user", ""), query.get("dbname", "")):
        if word:
            yield unquote(word), True


def _secrets_in(holder: object) -> Iterator[str]:
    from pydantic import BaseModel, SecretStr  # imported here to keep `--help` fast

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
