"""
What the value of a setting may look like. Each check takes what a user wrote, text from the environment or a
typed value from a file, and raises ValueError with what it must be. A secret is never repeated in a message.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from pipeline_processing.options.locations import Location, parse_location

_SHOWN_LENGTH = 80


def shown(value: object) -> str:
    """A wrong value, as a message may repeat it: short, and never a URL that holds credentials."""
    text = repr(value)
    if "://" in text and "@" in text:
        return "a URL with credentials (not shown)"
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"


def whole_number(minimum: int, maximum: int | None = None) -> Callable[[Any], int]:
    """A check for integers from `minimum` to `maximum`."""
    rule = f"must be a whole number ≥ {minimum}" + ("" if maximum is None else f" and ≤ {maximum}")

    def check(value: Any) -> int:
        number: int | None = None
        if isinstance(value, int) and not isinstance(value, bool):
            number = value
        elif isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip()):
            number = int(value)
        if number is None or number < minimum or (maximum is not None and number > maximum):
            raise ValueError(f"{rule}, not {shown(value)}")
        return number

    return check


def seconds(minimum: float) -> Callable[[Any], float]:
    """A check for a finite number of seconds; fractions are allowed."""

    def check(value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not (math.isfinite(number) and number >= minimum):
            raise ValueError(f"must be a number of seconds ≥ {minimum:g}, not {shown(value)}")
        return number

    return check


def one_of(*allowed: str) -> Callable[[Any], str]:
    """A check for a word from a list; case doesn't matter."""
    by_lower_case = {word.lower(): word for word in allowed}

    def check(value: Any) -> str:
        word = by_lower_case.get(value.strip().lower()) if isinstance(value, str) else None
        if word is None:
            raise ValueError(f"must be one of {', '.join(allowed)}, not {shown(value)}")
        return word

    return check


def yes_or_no(value: Any) -> bool:
    """`true` or `false`, as YAML and the shell write them."""
    words = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise ValueError(f"must be true or false, not {shown(value)}")


def text(value: Any) -> str:
    """Any text. A number from a file is refused: YAML has long since changed `0123` into 83."""
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {shown(value)}: put it in quotes")
    return value.strip()


def matching(pattern: str, rule: str) -> Callable[[Any], str]:
    """A check for text of a given form; `rule` says the form to people."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value.strip()):
            raise ValueError(f"{rule}, not {shown(value)}")
        return value.strip()

    return check


def file_path(value: Any) -> Path:
    """A path; whether something is there is for its reader to find out."""
    if not isinstance(value, str | Path) or "\0" in str(value):
        raise ValueError(f"must be a path, not {shown(value)}")
    return Path(value)


def servers(value: Any) -> tuple[str, ...]:
    """`host:port,host:port`, or a list of such."""
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not listed:
        raise ValueError(f"must be host:port, several with commas between, not {shown(value)}")
    for server in listed:
        if not isinstance(server, str) or not re.fullmatch(r"[^\s@/]+:[0-9]{1,5}", server.strip()):
            raise ValueError(f"must be host:port, several with commas between, not {shown(server)}")
    return tuple(server.strip() for server in listed)


def http_url(value: Any) -> str:
    """An http or https URL of a server, without credentials."""
    url = text(value)
    try:
        parts = urlsplit(url)
        complete = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 0) >= 0
    except ValueError:  # a port that isn't a number, or a broken IPv6 address
        complete = False
    if not complete or "@" in url:
        raise ValueError(f"must be a URL such as https://host:9000, without credentials, not {shown(value)}")
    return url


def location(value: Any) -> Location:
    """`s3://bucket/prefix` or `file:///dir`."""
    return parse_location(text(value))


def secret(value: Any) -> SecretStr:
    """Any text, kept out of every repr."""
    if isinstance(value, SecretStr):
        return value
    if not isinstance(value, str):
        raise ValueError("must be text: put it in quotes")
    return SecretStr(value)


def postgres_dsn(value: Any) -> SecretStr:
    """
    A URL that asyncpg takes; it may name several hosts. All of it is a secret, as it may hold a password.

    asyncpg would find most of these faults too, but not before it connects, and it repeats parts of the URL.
    """
    hidden = secret(value)
    scheme, separator, rest = hidden.get_secret_value().strip().partition("://")
    if not separator or scheme not in ("postgres", "postgresql"):
        raise ValueError("must be a URL such as postgresql://user:password@host:5432/database")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    for host in filter(None, authority.rpartition("@")[2].split(",")):
        parts = re.fullmatch(r"(?:\[[0-9A-Fa-f:.%]+\]|[^:\[\]\s]*)(?::([0-9]{1,5}))?", host)
        if parts is None or int(parts[1] or 1) not in range(1, 65536):
            raise ValueError(
                "must be a URL such as postgresql://user:password@host:5432/database; a password that has "
                "one of : / ? # @ % needs percent-encoding (a slash is %2F)"
            )
    return SecretStr(hidden.get_secret_value().strip())
