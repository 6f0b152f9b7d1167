"""
Keys of agencies: integers from 1 on, or UUIDs or texts where a job config says so.

`str(key)` names an agency for good: 12 and "12" are the same agency. Text comes from outside, so it is bounded, holds
no control characters, and is percent-encoded wherever it becomes part of a path.
"""

import hashlib
import re
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

_MOST = 2**63 - 1
_CONTROL = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"
TEXT_PATTERN = rf"^[^ {_CONTROL}]([^{_CONTROL}]*[^ {_CONTROL}])?$"
"""No control characters and no line ends: keys are shown in terminals and on pages."""
MAX_ENCODED_BYTES = 200
"""Limit of `encoded_key`. A name in a file system has 255 bytes at most, and `agency_id=` stands before the key."""

_TEXT = re.compile(TEXT_PATTERN)
_DECIMAL = re.compile(r"[1-9][0-9]{0,18}")
_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NOT_AN_INTEGER = "Input should be a valid integer"
"""As pydantic says it."""


class _IntegerOrText:
    """Validates integers as pydantic does, and text by `checked_text`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            lambda value, integer: checked_text(value) if isinstance(value, str) else integer(value),
            core_schema.int_schema(ge=1, le=_MOST),
            serialization=core_schema.simple_ser_schema("any"),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        integer = handler(core_schema.int_schema(ge=1, le=_MOST))
        return {"anyOf": [integer, {"type": "string", "pattern": TEXT_PATTERN, "maxLength": MAX_ENCODED_BYTES}]}


AgencyId = Annotated[int | str, _IntegerOrText()]


def checked_text(key: str) -> str:
    """Return a text key. Raises ValueError if it can't be one."""
    if not _TEXT.fullmatch(key):
        raise ValueError("must have at least one character, no control characters, and no space at its ends")
    if (size := len(encoded_key(key))) > MAX_ENCODED_BYTES:
        raise ValueError(f"takes {size:,} bytes in percent-encoding, and may take {MAX_ENCODED_BYTES}")
    return key


def encoded_key(key: int | str) -> str:
    """Return a key as part of a path: in ASCII, and different for different keys."""
    return quote(str(key), safe="")


def number_of(key: int | str) -> int:
    """
    Return the 64-bit integer that stands for a key in a `bigint` column.

    Integers, also in decimal digits, stand for themselves. Any other key is a negative hash, so that it can't be taken
    for an integer. Different keys may share a hash, so whatever must not mix up agencies compares the keys, too.
    """
    text = str(key)
    if _DECIMAL.fullmatch(text) and int(text) <= _MOST:
        return int(text)
    return -1 - (int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1)


class AgencyKey(StrEnum):
    """What the keys of a job config's agencies are."""

    INTEGER = "integer"
    UUID = "uuid"
    TEXT = "text"

    @property
    def examples(self) -> tuple[str, str]:
        """Two keys of this kind, as text, as like each other as they can be."""
        uuid = "00000000-0000-0000-0000-00000000000"
        return {"integer": ("1", "2"), "uuid": (f"{uuid}0", f"{uuid}1"), "text": ("a", "A")}[self]

    def fault(self, key: int | str) -> str | None:
        """Return what a request's key must be instead, or None if it fits."""
        if self is AgencyKey.INTEGER:
            return None if isinstance(key, int) else NOT_AN_INTEGER
        if not isinstance(key, str):
            return f"must be text: the job config has `agency_key: {self}`"
        if self is AgencyKey.UUID and not _UUID.fullmatch(key):
            return "must be a UUID in lower case, such as 018f4e8a-5b7c-7d3e-9a41-2f60c1d7b3e5"
        return None

    def key_of(self, value: Any) -> int | str:
        """
        Return the key that an event or a command line means.

        Digits may stand for an integer, an integer for its digits, and upper case for a UUID's lower case. Raises
        ValueError, whose message says what the value must be.
        """
        if self is AgencyKey.INTEGER:
            if isinstance(value, str) and _DIGITS.fullmatch(value):
                value = int(value)
            if type(value) is int and 1 <= value <= _MOST:
                return value
            raise ValueError("an integer from 1 on, or its digits as text")
        if type(value) is int:
            value = str(value)
        try:
            if self is AgencyKey.TEXT and isinstance(value, str):
                return checked_text(value)
            if isinstance(value, str) and _UUID.fullmatch(value.lower()):
                return value.lower()
        except ValueError as error:
            raise ValueError(f"text, which {error}") from None
        raise ValueError("a UUID" if self is AgencyKey.UUID else "text")
