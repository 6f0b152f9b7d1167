"""Options of an upstream HTTP API, as in the job config's `source.http` and `enrich_http`."""

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints, field_validator, model_validator

from pipeline_processing.options.durations import Duration
from pipeline_processing.options.parts import Part, SecretName
from pipeline_processing.options.words import saying

HeaderName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$"),
    saying("must be the name of an HTTP header: up to 128 letters, digits and marks such as `-`, without spaces"),
]

_OF_OURS = """
accept-encoding connection content-length expect host keep-alive proxy-connection te trailer transfer-encoding upgrade
"""
_OURS = frozenset(_OF_OURS.split())
_SECRET = frozenset(("authorization", "cookie", "proxy-authorization"))


class BasicAuth(Part):
    """A user, and the name of the secret that is the password."""

    username: str = Field(description="Without a colon.")
    password: SecretName = Field(description="Name of a secret.")

    @field_validator("username")
    @classmethod
    def _without_colon(cls, username: str) -> str:
        if ":" in username or not username.isprintable():
            raise ValueError("can't hold a colon or a control character")
        return username


class HeaderAuth(Part):
    """A header, and the name of the secret that is its value."""

    name: HeaderName = Field(description="e.g. X-Api-Key.")
    secret: SecretName = Field(description="Name of a secret.")

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if name.lower() in _OURS:
            raise ValueError(f"{name} is set by this service")
        return name


class Auth(Part):
    """How this service makes itself known: one of the three."""

    bearer: SecretName | None = Field(None, description="Name of the secret to send as a bearer token.")
    basic: BasicAuth | None = Field(None, description="User and password.")
    header: HeaderAuth | None = Field(None, description="A header of its own.")

    @model_validator(mode="after")
    def _one(self) -> "Auth":
        check_one(self)
        return self

    @property
    def secret(self) -> str:
        """Name of the secret to send."""
        if self.basic is not None:
            return self.basic.password
        if self.header is not None:
            return self.header.secret
        assert self.bearer is not None, "it is one of the three"
        return self.bearer

    @property
    def header_name(self) -> str:
        """Name of the header that contains the secret."""
        return "Authorization" if self.header is None else self.header.name


class UpstreamOptions(Part):
    """Access to an HTTP API, and how hard it may be asked."""

    headers: dict[HeaderName, str] = Field(
        default_factory=dict, description="Headers to send. Nothing secret: that is what `auth` is for."
    )
    auth: Auth | None = Field(None, description="One of bearer, basic and header; they name secrets of the settings.")
    requests_per_second: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Most requests a second, evenly spaced, of a worker; no limit."
    )
    timeout: Duration = Field(
        timedelta(seconds=30), description="Longest wait to connect, for an answer to begin, and for its next piece."
    )
    max_retries: int = Field(
        4, ge=0, le=100, description="How often a request is repeated before the run's attempt fails for now."
    )

    @field_validator("headers")
    @classmethod
    def _headers_are_free(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if name.lower() in _OURS:
                raise ValueError(f"{name} is set by this service: leave it out")
            if name.lower() in _SECRET:
                raise ValueError(f"{name} is a secret, which must not be in a job config: use `auth`")
            if re.search(r"[^\t\x20-\x7e]", value):
                raise ValueError(f"the value of {name} has characters that a header can't have")
        lower = [name.lower() for name in headers]
        if twice := sorted({name for name in lower if lower.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} is set twice: header names are case-insensitive")
        return headers

    @field_validator("timeout")
    @classmethod
    def _some_time(cls, timeout: timedelta) -> timedelta:
        if not timeout:
            raise ValueError("must be longer than zero, such as 30s")
        return timeout

    @model_validator(mode="after")
    def _auth_has_its_header(self) -> "UpstreamOptions":
        if self.auth is not None and self.auth.header_name.lower() in map(str.lower, self.headers):
            raise ValueError(f"`headers` and `auth` both set {self.auth.header_name}: leave it to `auth`")
        return self

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of the secrets that the upstream needs."""
        return () if self.auth is None else (self.auth.secret,)

    @property
    def access(self) -> "UpstreamOptions":
        """Return only these options, without those that a source or step adds."""
        return UpstreamOptions(**{name: getattr(self, name) for name in UpstreamOptions.model_fields})


def check_one(part: BaseModel, *, among: Sequence[str] | None = None) -> str:
    """Return the name of the one field that is set. Raises ValueError if none or several are."""
    names = tuple(among or type(part).model_fields)
    given = [name for name in names if getattr(part, name) is not None]
    if len(given) != 1:
        raise ValueError(f"needs one of {', '.join(names)}, and has {' and '.join(given) or 'none'}")
    return given[0]
