"""
Types of settings. Each accepts text from the environment, or a typed value from a file.

pydantic parses the values; for an invalid one, the message states the type's rule. Messages never quote secrets.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import MultiHostUrl

from pipeline_processing.http.signatures import signing_key
from pipeline_processing.http.urls import check_url, without_user
from pipeline_processing.options.locations import Location, parse_location

_LONGEST_SHOWN = 80
_SHORTEST_KEY = 16
"""Bytes. A shorter key could be guessed."""


def must_be(rule: str, *, written: Callable[[str], str] = str, secret: bool = False) -> WrapValidator:
    """
    Replace pydantic's message for an invalid value with `must be <rule>, not <value>`.

    `written` normalises text before it is parsed. A secret is neither stripped nor quoted.
    """

    def check(value: Any, parse: ValidatorFunctionWrapHandler) -> Any:
        try:
            parsed = parse(written(value.strip()) if isinstance(value, str) and not secret else value)
            if isinstance(value, bool) and not isinstance(parsed, bool):
                raise ValueError("pydantic accepts True as 1")
        except ValueError:
            raise ValueError(f"must be {rule}" + ("" if secret else f", not {_shown(value)}")) from None
        return parsed

    return WrapValidator(check)


def _shown(value: object) -> str:
    """Return an invalid value for messages, shortened, and without URLs that contain credentials."""
    text = repr(value)
    if "://" in text and "@" in text:
        return "a URL with credentials (not shown)"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _dsn(value: SecretStr) -> SecretStr:
    """
    Check that asyncpg accepts the URL, which may name several hosts. asyncpg itself checks it only when it connects,
    and its errors quote parts of the URL.
    """
    dsn = value.get_secret_value().strip()
    # pydantic requires a host after a user, but drivers don't: postgresql://user@/database?host=/var/run/postgresql
    if MultiHostUrl(re.sub(r"@(?=[/?]|$)", "@localhost", dsn)).scheme not in ("postgres", "postgresql"):
        raise ValueError("another scheme")
    return SecretStr(dsn)


def _webhook_url(value: SecretStr) -> SecretStr:
    """Check the URL, which may contain a user and a password."""
    url = value.get_secret_value().strip()
    check_url(without_user(url))
    return SecretStr(url)


def _webhook_key(value: SecretStr) -> SecretStr:
    if len(signing_key(value.get_secret_value())) < _SHORTEST_KEY:
        raise ValueError("too short")
    return value


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


# Texts and paths.
Text = Annotated[str, must_be("text in quotes")]
File = Annotated[Path, must_be("a path")]
Topic = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$"), must_be("a topic: letters, digits, `.`, `_`, `-`")]
# The schema is used unquoted in every query, and typed in psql.
SchemaName = Annotated[
    str,
    Field(pattern=r"^(?!pg_)[a-z_][a-z0-9_]{0,62}$"),
    must_be("lower-case letters, digits and `_`, without `pg_` in front"),
]

# Numbers and choices.
Positive = Annotated[int, Field(ge=1), must_be("a whole number ≥ 1")]
Port = Annotated[int, Field(ge=0, le=65535), must_be("a whole number ≥ 0 and ≤ 65535")]
Switch = Annotated[bool, must_be("true or false")]
SecurityProtocol = Annotated[
    Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"],
    must_be("one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL", written=str.upper),
]
SaslMechanism = Annotated[
    Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
    must_be("one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512", written=str.upper),
]
AddressingStyle = Annotated[
    Literal["auto", "path", "virtual"], must_be("one of auto, path, virtual", written=str.lower)
]

Reader = Annotated[Literal["auto", "cursor"], must_be("one of auto, cursor", written=str.lower)]

FinalStates = Annotated[
    tuple[Literal["succeeded", "failed", "cancelled"], ...],
    Field(min_length=1),
    BeforeValidator(_split),
    must_be("succeeded, failed or cancelled, several with commas between"),
]

# Addresses.
Servers = Annotated[
    tuple[Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[^\s@/]+:[0-9]{1,5}$")], ...],
    Field(min_length=1),
    BeforeValidator(_split),
    must_be("host:port, several with commas between"),
]
HttpUrl = Annotated[str, AfterValidator(check_url), must_be("a URL such as https://host:9000, without credentials")]
TraceUrl = Annotated[
    str,
    Field(pattern=r"^https?://[^\s{}]+\{trace_id\}[^\s{}]*$"),
    must_be("a URL with the placeholder {trace_id}, such as https://jaeger/trace/{trace_id}"),
]
Destination = Annotated[
    Location, BeforeValidator(lambda value: parse_location(value.strip() if isinstance(value, str) else ""))
]

Secret = Annotated[SecretStr, must_be("text in quotes", secret=True)]
Dsn = Annotated[
    SecretStr,
    AfterValidator(_dsn),
    must_be(
        "a URL such as postgresql://user:password@host:5432/database, with : / ? # @ % in a password percent-encoded",
        secret=True,
    ),
]
WebhookUrl = Annotated[
    SecretStr,
    AfterValidator(_webhook_url),
    must_be("an http or https URL such as https://host/path, without a fragment", secret=True),
]
WebhookKey = Annotated[
    SecretStr,
    AfterValidator(_webhook_key),
    must_be("at least 16 characters, or `whsec_` and at least 16 bytes in base64", secret=True),
]
