"""
JSON documents as text. A part of a document is a slice of its text, with all digits and white space.

That is what Postgres does for `json`. For `jsonb`, the text is what Postgres prints.
"""

import json
import re
from typing import Any, Never

import msgspec
from msgspec import Raw

from pipeline_processing.expressions.types import RowFault

_SPACE = " \t\n\r"
_NUL = re.compile(r"(?:^|[^\\])(?:\\\\)*\\u0000")
_container = msgspec.json.Decoder(type=dict[str, Raw] | list[Raw])
_plain = msgspec.json.Decoder(type=Raw)


def _not_json(constant: str) -> Never:
    raise ValueError(f"{constant} isn't JSON")


# Like Postgres and unlike msgspec, it accepts lone surrogates.
_decoder = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_not_json)


def document_of(text: str) -> str:
    """Return the text. Raises RowFault if it isn't JSON."""
    try:
        _decoder.decode(text)
    except (ValueError, RecursionError):
        raise RowFault("the text isn't JSON") from None
    return text


def member(document: str, key: str) -> str | None:
    """Return the value of a key: the last one if it is repeated, None if it is missing. Raises RowFault."""
    parts = _parts(document)
    found = parts.get(key) if isinstance(parts, dict) else None
    return None if found is None else str(found, "utf-8")


def element(document: str, index: int) -> str | None:
    """Return the element at an index, from 0, or from -1 backwards; None if there is none. Raises RowFault."""
    parts = _parts(document)
    if isinstance(parts, list):
        return str(parts[index], "utf-8") if -len(parts) <= index < len(parts) else None
    if isinstance(parts, Raw) and index in (0, -1):
        # This element is null in json and the scalar itself in jsonb, and the column may be either.
        raise RowFault("a json that is neither array nor object has no elements")
    return None


def _parts(document: str) -> Any:
    """Return the members, the elements or the scalar, as written. Raises RowFault."""
    decoder = _container if document.lstrip(_SPACE)[:1] in ("{", "[") else _plain
    try:
        if not _NUL.search(document):
            return decoder.decode(document)
    except (msgspec.DecodeError, RecursionError):
        pass
    raise RowFault("a json can't be read, or has a string with characters in it that text can't have")


def plain_text(document: str) -> str | None:
    """Convert a document to text as ->> does: strings lose their quotes, null becomes None. Raises RowFault."""
    text = document.strip(_SPACE)
    if text == "null":
        return None
    return msgspec.json.decode(text, type=str) if text.startswith('"') else text


def member_text(document: str, key: str) -> str | None:
    """Return `member` as text."""
    return None if (found := member(document, key)) is None else plain_text(found)


def element_text(document: str, index: int) -> str | None:
    """Return `element` as text."""
    return None if (found := element(document, index)) is None else plain_text(found)
