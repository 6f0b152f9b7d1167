"""Shares in configs, such as `0.1%`."""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_PATTERN = r"^\d{1,9}(\.\d{1,9})?%$"


@dataclass(frozen=True, slots=True)
class Percent:
    """A percentage of a count."""

    value: Decimal

    def of(self, count: int) -> Decimal:
        """Return that share of `count`, exactly."""
        return self.value * count / 100

    def __str__(self) -> str:
        return f"{self.value}%"


def parse_percent(value: Any) -> Percent:
    """`"0.1%"` → Percent. Raises ValueError for anything else: a bare number would be ambiguous."""
    if isinstance(value, Percent):
        return value
    if not isinstance(value, str) or not re.fullmatch(_PATTERN, value):
        raise ValueError('must be a share with a percent sign, such as "0.1%"')
    return Percent(Decimal(value.removesuffix("%")))


Share = Annotated[
    Percent,
    BeforeValidator(parse_percent),
    PlainSerializer(str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": _PATTERN, "examples": ["0.1%", "20%"]}),
]
