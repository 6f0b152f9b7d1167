"""pydantic models for `validate` steps."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Address(BaseModel):
    model_config = ConfigDict(extra="forbid")

    zip: Annotated[str, Field(pattern=r"^\d{4}$")]
    notes: dict[str, int] = {}


class Record(BaseModel):
    id: int
    amount: Annotated[Decimal, Field(max_digits=30, decimal_places=2, ge=0)]
    email: Annotated[str, Field(max_length=20)] | None = None
    at: datetime | None = None
    key: UUID | None = None
    address: Address | None = None

    @field_validator("id")
    @classmethod
    def _not_thirteen(cls, value: int) -> int:
        if value == 13:
            raise ValueError(f"{value} is unlucky")
        if value == 14:
            raise RuntimeError(f"a bug, at {value}")
        if value == 15:
            raise SystemExit(value)
        if value == 16:
            raise KeyboardInterrupt
        return value


class Meddling(BaseModel):
    """Tries to change what it only should look at."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _changed(cls, row: dict[str, object]) -> dict[str, object]:
        document = row["doc"]
        assert isinstance(document, dict)
        document["meddled"] = True
        row["more"] = 1
        return row


class Plain:
    """Not a model."""


def hook() -> None:
    """What a test puts here."""


class Hooked(BaseModel):
    id: int

    @field_validator("id")
    @classmethod
    def _hooked(cls, value: int) -> int:
        hook()
        return value
