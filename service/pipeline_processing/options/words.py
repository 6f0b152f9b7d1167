"""Pydantic's errors in the words of YAML: lists, mappings, text and numbers."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import ErrorDetails, PydanticCustomError

_MOST_KEYS = 16
"""A message names the keys of a mapping up to this number."""

_CUT_TEXT = "within braces a comma ends a text, so put it in quotes"
_TEXT, _WHOLE, _NUMBER, _TRUTH = "text", "a whole number", "a number", "true or false"
_SHAPES: Mapping[str, str] = {
    **dict.fromkeys(("string_type", "string_sub_type", "string_unicode", "path_type"), _TEXT),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), _WHOLE),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number", "decimal_type", "decimal_parsing"), _NUMBER),
    **dict.fromkeys(("bool_type", "bool_parsing"), _TRUTH),
    **dict.fromkeys(("tuple_type", "list_type", "set_type", "frozen_set_type", "iterable_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type", "mapping_type"), "a mapping"),
    "none_required": "null",
}
"""Type of error → what the value must be."""
_BOUNDS = {
    "greater_than_equal": "at least",
    "greater_than": "more than",
    "less_than_equal": "at most",
    "less_than": "less than",
}
_LIMITS = {"greater_than_equal": "ge", "greater_than": "gt", "less_than_equal": "le", "less_than": "lt"}


def is_shape(kind: str) -> bool:
    """Whether a type of error says that the value is of another shape: text for a list, and the like."""
    return kind in _SHAPES


def words_of(fault: ErrorDetails, *, keys: Mapping[str, Collection[str]], top: Collection[str] = ()) -> str:
    """
    Say what is wrong, without the value, which may be a secret.

    `keys` are those that the mapping there, or for an unknown key around it, may have, each with the keys below it;
    `top` are those of the whole file.
    """
    kind, context, value = fault["type"], fault.get("ctx", {}), fault["input"]
    match kind:
        case "extra_forbidden":
            if value is None and " " in str(fault["loc"][-1]):  # {query: SELECT a, b FROM c}
                return f"unknown key: {_CUT_TEXT}"
            return f"unknown key{_instead(str(fault['loc'][-1]), keys, top)}"
        case "missing":
            return f"needs `{fault['loc'][-1]}`"
        case "literal_error" | "enum":
            choices = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
            is_close = len(choices) > 1 and isinstance(value, str)
            return f"must be {one_of(choices)}" + (close_to(value, choices, cutoff=0.6) if is_close else "")
        case "too_short" | "string_too_short" if context["min_length"] == 1:
            return "must not be empty" if kind == "string_too_short" else "must have at least one"
        case "too_short" | "string_too_short":
            return f"must have at least {context['min_length']:,}{_of(kind)}"
        case "too_long" | "string_too_long":
            return f"must have at most {context['max_length']:,}{_of(kind)}"
        case "string_pattern_mismatch":
            return f"must match {context['pattern']}"
        case "recursion_loop":
            return "must not contain itself"
    if kind in _BOUNDS:
        return f"must be {_BOUNDS[kind]} {context[_LIMITS[kind]]}"
    if kind in _SHAPES:
        key = "".join(map(str, fault["loc"][-1:]))
        if value is None and key.endswith(")") and "(" not in key:  # {amount: numeric(10,2)}
            return _CUT_TEXT
        return _shape(_SHAPES[kind], value, keys)
    return re.sub(
        r"^(Value error, |Assertion failed, )|^Input should be", lambda it: "" if it[1] else "must be", fault["msg"]
    )


def saying(words: str) -> WrapValidator:
    """Say this, without the value, where text breaks its pattern or its length. For use in `Annotated`."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            if any(is_shape(fault["type"]) for fault in error.errors()):
                raise
            raise PydanticCustomError("saying", "{words}", {"words": words}) from None

    return WrapValidator(check)


def one_of(choices: Sequence[str]) -> str:
    """`a, b or c`."""
    return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))


def close_to(written: str, choices: Iterable[str], *, cutoff: float = 0.7) -> str:
    """`: did you mean filter?`; empty if nothing is close. `cutoff` is what `difflib` takes."""
    close = difflib.get_close_matches(written.lower(), list(choices), n=1, cutoff=cutoff)
    return f": did you mean {close[0]}?" if close else ""


def merged(alternatives: Sequence[str]) -> str:
    """Join what a value must be by several alternatives."""
    different = list(dict.fromkeys(alternatives))
    if f"must be {_NUMBER}" in different and f"must be {_WHOLE}" in different:
        different.remove(f"must be {_WHOLE}")
    rest = [each.removeprefix("must be ") for each in different[1:]]
    return " or ".join(filter(None, (", ".join([different[0], *rest[:-1]]), *rest[-1:])))


def keys_of(model: type[BaseModel], path: Sequence[str | int]) -> dict[str, list[str]]:
    """Return the keys that a model's published schema allows in the mapping at this path, each with those below it."""
    schema = _schema(model)
    places = _spread(schema, schema)
    for part in path:
        places = _places_below(places, part, schema)
    return {key: _keys(_places_below(places, key, schema)) for key in _keys(places)}


@cache
def _schema(model: type[BaseModel]) -> Mapping[str, Any]:
    return model.model_json_schema()


def _of(kind: str) -> str:
    return " characters" if kind.startswith("string") else ""


def _instead(key: str, keys: Mapping[str, Collection[str]], top: Collection[str]) -> str:
    if close := close_to(key, keys):
        return close
    if key in top:
        return ": it belongs at the top of the file, not here"
    if close := close_to(key, top):
        return close.removesuffix("?") + ", at the top of the file?"
    if len(above := [known for known, below in keys.items() if key in below]) == 1:
        return f": it belongs below `{above[0]}`"
    return f". Known are {', '.join(keys)}" if 0 < len(keys) <= _MOST_KEYS else ""


def _shape(wanted: str, value: Any, keys: Collection[str]) -> str:
    if wanted == "a mapping":
        wanted += f" with {', '.join(keys)}" if 0 < len(keys) <= _MOST_KEYS else " of `key: value`"
    if value is None:
        return f"is empty, but must be {wanted}"
    if wanted == _TEXT and not isinstance(value, list | dict | str):
        return "must be text: put it in quotes"
    if wanted == "a list":
        return "must be a list: " + ("begin each item with `- `" if isinstance(value, dict) else "put it in brackets")
    return f"must be {wanted}"


def _spread(place: Any, root: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Resolve references and alternatives."""
    if not isinstance(place, dict):
        return []
    if "$ref" in place:
        return _spread(root["$defs"][place["$ref"].rsplit("/", 1)[1]], root)
    alternatives = [each for key in ("anyOf", "oneOf", "allOf") for each in place.get(key, ())]
    return [place, *(each for alternative in alternatives for each in _spread(alternative, root))]


def _places_below(
    places: Sequence[Mapping[str, Any]], part: str | int, schema: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    return [each for place in places for below in _below(place, part) for each in _spread(below, schema)]


def _keys(places: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for place in places for key in place.get("properties", ())))


def _below(place: Mapping[str, Any], part: str | int) -> list[Any]:
    if isinstance(part, int):
        return [place.get("items")]
    return [place.get("properties", {}).get(part) or place.get("additionalProperties")]
