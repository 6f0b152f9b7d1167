"""
Documents of json, as they are written: a part of one is a part of its text, with all its digits and white space.

So Postgres has it for `json`, and also for `jsonb`, whose text is the one that it prints.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Never

from pipeline_processing.expressions.refusals import RowFault

_ESCAPE_TO_CHECK = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NOT_IN_TEXT = re.compile("[\0\ud800-\udfff]")
_past_space = re.compile(r"[ \t\n\r]*").match


def _not_json(constant: str) -> Never:
    raise ValueError(f"{constant} isn't JSON")


_decoder = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_not_json)


def document_of(text: str) -> str:
    """The text, which has to be JSON. Raises RowFault."""
    try:
        _decoder.decode(text)
    except (ValueError, RecursionError):
        raise RowFault("the text isn't JSON") from None
    return text


def member(document: str, key: str) -> str | None:
    """The value of a key, the last one if there are several; None where there is none. Raises RowFault."""
    _check_strings(document)
    found = None
    for name, value in _read(_members(document)):
        if name == key:
            found = value
    return found


def element(document: str, index: int) -> str | None:
    """The element at an index from 0, or from -1 counting from the end; None where there is none. Raises RowFault."""
    _check_strings(document)
    if (first := document[_skipped(document, 0)]) == "[":
        elements = _read(_elements(document))
        return elements[index] if -len(elements) <= index < len(elements) else None
    if first != "{" and index in (0, -1):
        # To json it has no elements, to jsonb it is its own, and which of the two this is isn't known.
        raise RowFault("a json that is neither array nor object has no elements")
    return None


def plain_text(document: str) -> str | None:
    """A document as ->> gives it: a string without quotes, null as null. Raises RowFault."""
    text = document.strip(" \t\n\r")
    if text == "null":
        return None
    return str(_decoder.decode(text)) if text.startswith('"') else text


def _check_strings(document: str) -> None:
    """Raises RowFault for a string, wherever it stands, that can't be text: Postgres refuses the document, too."""
    if _ESCAPE_TO_CHECK.search(document) and any(map(_is_no_text, _STRING.findall(document))):
        raise RowFault("a json has a string with characters in it that text can't have")


def _is_no_text(string: str) -> bool:
    return _NOT_IN_TEXT.search(_decoder.decode(string)) is not None


def _read(parts: Iterator[Any]) -> list[Any]:
    try:
        return list(parts)
    except (ValueError, IndexError, RecursionError):
        raise RowFault("a json can't be read") from None


def _members(document: str) -> Iterator[tuple[Any, str]]:
    at = _skipped(document, 0)
    if document[at] != "{":
        return
    at = _skipped(document, at + 1)
    while document[at] != "}":
        name, at = _decoder.raw_decode(document, at)
        start = _skipped(document, _skipped(document, at) + 1)
        _, end = _decoder.raw_decode(document, start)
        yield name, document[start:end]
        at = _skipped(document, end)
        if document[at] == ",":
            at = _skipped(document, at + 1)


def _elements(document: str) -> Iterator[str]:
    at = _skipped(document, _skipped(document, 0) + 1)
    while document[at] != "]":
        _, end = _decoder.raw_decode(document, at)
        yield document[at:end]
        at = _skipped(document, end)
        if document[at] == ",":
            at = _skipped(document, at + 1)


def _skipped(document: str, at: int) -> int:
    space = _past_space(document, at)
    assert space is not None, "it matches nothing, too"
    return space.end()
