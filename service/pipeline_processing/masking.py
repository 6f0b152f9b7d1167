"""
The last line of defence against secrets in text. They are kept away from it by `SecretStr` in the first place; this
is for what drivers and tracebacks say.
"""

import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

MASK = "***"

_URL_PASSWORD = re.compile(r"(://[^\s/?#:@'\"]*):[^\s/?#'\"]+@")
_ASSIGNED_SECRET = re.compile(
    r"(?i)\b((?:ssl)?password|passwd|(?:aws_)?secret_access_key|X-Amz-Signature|X-Amz-Security-Token)"
    r"(\s*=\s*)('[^']*'|\"[^\"]*\"|[^\s&;,'\"]+)"
)
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[_-])(?:dsn|password|passwd|secret|secret_access_key|access_key_id|token|authorization)$"
)


_SHORTEST = 8
"""Characters. Shorter secrets would be found in ordinary words."""


class _Known:
    """This process's own secrets. There is one, as there is one log."""

    def __init__(self) -> None:
        self._spellings: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secrets: Iterable[str]) -> None:
        for secret in secrets:
            if len(secret) >= _SHORTEST:
                # As URLs, JSON, Python's repr and SQL show it.
                escaped = (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1])
                in_urls = (quote(secret), quote(secret, safe=""), quote_plus(secret))
                self._spellings |= {secret, secret.replace("'", "''"), *escaped, *in_urls}
        longest_first = sorted(self._spellings, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def masked(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(MASK, text)


_known = _Known()


def mask_from_now_on(secrets: Iterable[str]) -> None:
    """Have `mask_text` mask these wherever they stand, if they have at least 8 characters."""
    _known.add(secrets)


def mask_text(text: str) -> str:
    """
    `postgresql://user:secret@host` → `postgresql://user:***@host`; also `password=…`, signatures of URLs, and what
    `mask_from_now_on` was told.
    """
    return _ASSIGNED_SECRET.sub(rf"\1\2{MASK}", _URL_PASSWORD.sub(rf"\1:{MASK}@", _known.masked(text)))


def names_a_secret(name: str) -> bool:
    """Whether a value of this name is one to hide: `password`, `s3_secret_access_key`, `dsn`, …"""
    return _SECRET_NAME.search(name) is not None
