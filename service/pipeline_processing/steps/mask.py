"""Step `mask`: pseudonymise or hide personal data."""

import hmac
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline_processing.kinds import column_of_kind
from pipeline_processing.options.config_file import fault_below
from pipeline_processing.options.parts import Part, SecretName
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import Services
from pipeline_processing.rows.columns import Kind
from pipeline_processing.steps.foreign_values import text_of_any
from pipeline_processing.steps.select import check_named_once
from pipeline_processing.steps.step import Batch, Step, StepContext

_MASK = "*"


class MaskOptions(Part):
    """
    Which columns, and how. A masked value is text; null stays null. Of a value, its text is masked: text as it is,
    anything else as the format prints it.

    - `sha256`: lower-case hex digits of SHA-256(salt + text), both as UTF-8; without `salt`, of the text alone.
    - `hmac`: lower-case hex digits of HMAC-SHA-256 with the key `secret`, of the text, both as UTF-8.
    - `redact`: always the same text, `with`, which may be null.
    - `partial`: `*` for every character but the last `keep`; for every one where there are no more than `keep`.
    """

    columns: tuple[str, ...] = Field(min_length=1)
    using: Literal["sha256", "hmac", "redact", "partial"]
    salt: SecretName | None = Field(None, description="For `sha256`: name of the secret that is the salt.")
    secret: SecretName | None = Field(None, description="For `hmac`: name of the secret that is the key.")
    with_: str | None = Field("***", alias="with", description="For `redact`: what stands instead, or null.")
    keep: int = Field(4, ge=0, description="For `partial`: how many characters stay, at the end.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        given = self.model_fields_set
        for name, option, using in (
            ("salt", "salt", "sha256"),
            ("secret", "secret", "hmac"),
            ("with_", "with", "redact"),
            ("keep", "keep", "partial"),
        ):
            if name in given and self.using != using:
                why = f"`{option}` is an option of `using: {using}`, not of `using: {self.using}`"
                raise fault_below(option, why=why)
        if self.using == "hmac" and self.secret is None:
            raise ValueError("`using: hmac` needs `secret`, the name of the secret that is the key")
        return self

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of the secrets that it needs."""
        return tuple(name for name in (self.salt, self.secret) if name is not None)


class Mask(Step):
    """Masks columns in place. It reads its secrets, and sets `masks`, when it is opened."""

    def __init__(self, options: MaskOptions, context: StepContext) -> None:
        self.name = f"mask: {', '.join(options.columns)}"
        check_named_once(options.columns, step=self.name)
        self.touches = frozenset(options.columns)
        self._options = options
        self._services = context.services
        self._reaching = context.columns
        was = [context.columns.require(name, step=self.name) for name in options.columns]
        masked = (column_of_kind(each.name, Kind.TEXT, context.carry, origins=each.origins) for each in was)
        self.columns = context.columns.replaced(masked, step=self.name)

    async def __aenter__(self) -> Self:
        self.masks = dict.fromkeys(self._options.columns, masking(self._options, self._services))
        return self

    async def __call__(self, batch: Batch) -> Batch:
        self._reaching.require_in(batch.rows, self._options.columns, step=self.name)
        masks = tuple(self.masks.items())
        rows = [dict(row) for row in batch.rows]
        for row in rows:
            for name, mask in masks:
                if (value := row[name]) is not None:
                    row[name] = mask(value)
        return batch.changed(rows)


def masking(options: MaskOptions, services: Services) -> Callable[[Any], str | None]:
    """A value (never None) → its masked form. Raises SecretMissing."""
    match options.using:
        case "sha256":
            salt = _bytes_of(options.salt, services) if options.salt else b""
            return lambda value: sha256(salt + _utf8(value)).hexdigest()
        case "hmac":
            assert options.secret is not None  # checked by the options
            key = _bytes_of(options.secret, services)
            return lambda value: hmac.digest(key, _utf8(value), "sha256").hex()
        case "redact":
            replacement = options.with_
            return lambda value: replacement
        case "partial":
            return _partial(options.keep)


def _bytes_of(secret: str, services: Services) -> bytes:
    return services.secret(secret).get_secret_value().encode()


def _partial(keep: int) -> Callable[[Any], str]:
    def masked(value: Any) -> str:
        text = text_of_any(value)
        hidden = len(text) - keep
        return _MASK * hidden + text[hidden:] if hidden > 0 else _MASK * len(text)

    return masked


def _utf8(value: Any) -> bytes:
    # User code may leave lone surrogates, which UTF-8 can't encode.
    return text_of_any(value).encode(errors="surrogatepass")


PLUGIN = Plugin(
    options=MaskOptions,
    build=Mask,
    description="Mask columns, in the artifacts and among the rejected rows.",
)
