"""The functions that there are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline_processing.expressions import choices, decimals, floats, integers, text, times
from pipeline_processing.expressions.casts import as_text, coerced, printed
from pipeline_processing.expressions.compiled import Compiled, composed, strict, unknown
from pipeline_processing.expressions.operators import arithmetic, check_number
from pipeline_processing.expressions.refusals import Refused
from pipeline_processing.expressions.types import TEMPORAL, Type
from pipeline_processing.ports import Row

Build = Callable[[Sequence[Compiled], int], Compiled]


@dataclass(frozen=True, slots=True)
class Function:
    least: int
    """Arguments it takes at least."""
    most: int | None
    """And at most; None where there is no limit."""
    build: Build


# -- text ----------------------------------------------------------------------------------------


def _of_text(name: str, result: Type, function: Callable[..., Any], arguments: str, least: int = 0) -> Function:
    """A function whose arguments are text and integers, one letter for each: `ti`."""

    def build(given: Sequence[Compiled], at: int) -> Compiled:
        read = [_argument(each, letter, name) for each, letter in zip(given, arguments, strict=False)]
        return strict(result, function, *read, at=at)

    return Function(least or len(arguments), len(arguments), build)


def _argument(given: Compiled, letter: str, name: str) -> Compiled:
    if letter == "t":
        return as_text(given, name.upper())
    # Text in quotes would make another function of it: substring(text, 'pattern').
    if given.type in (Type.INTEGER, Type.NULL, Type.ANY) or given.is_null:
        return coerced(given, Type.INTEGER)
    raise Refused(f"gives {name.upper()} {given.type} where an integer belongs", given.at)


def _concat(given: Sequence[Compiled], at: int) -> Compiled:
    """CONCAT: all that isn't null, each as its type prints it: a boolean is t or f, char(n) keeps its spaces."""
    if any(each.type is Type.ANY for each in given):
        return unknown(Type.TEXT, at)
    printing = [_as_printed(each).value for each in given]

    def value(row: Row) -> str:
        return "".join(found for each in printing if (found := each(row)) is not None)

    return composed(Type.TEXT, value, given, at)


def _as_printed(operand: Compiled) -> Compiled:
    if operand.type is Type.BOOLEAN:
        return strict(Type.TEXT, lambda truth: "t" if truth else "f", operand, at=operand.at)
    return operand if operand.type is Type.CHAR else printed(operand)


# -- numbers -------------------------------------------------------------------------------------

_ROUND = (floats.rounded, decimals.rounded)
_FLOOR = (floats.floor, decimals.floor)
_CEILING = (floats.ceiling, decimals.ceiling)


def _whole(name: str, functions: tuple[Callable[[float], float], Callable[..., Any]]) -> Build:
    """ROUND, FLOOR and CEIL of one number. Of an integer they give double precision, as in Postgres."""
    of_float, of_decimal = functions

    def build(given: Sequence[Compiled], at: int) -> Compiled:
        check_number(given[0], name)
        if given[0].type is Type.ANY:
            return unknown(Type.ANY, at)
        if given[0].type is Type.NUMBER:
            return strict(Type.NUMBER, of_decimal, given[0], at=at)
        return strict(Type.FLOAT, of_float, coerced(given[0], Type.FLOAT), at=at)

    return build


def _round(given: Sequence[Compiled], at: int) -> Compiled:
    """ROUND(number), or ROUND(number, places), which only numeric has."""
    if len(given) == 1:
        return _whole("ROUND", _ROUND)(given, at)
    check_number(given[0], "ROUND")
    if given[0].type is Type.FLOAT:
        raise Refused("rounds double precision to places: write ROUND(CAST(… AS numeric), …)", at)
    number = given[0] if given[0].type is Type.ANY else coerced(given[0], Type.NUMBER)
    return strict(Type.NUMBER, decimals.rounded, number, _argument(given[1], "i", "round"), at=at)


def _abs(given: Sequence[Compiled], at: int) -> Compiled:
    check_number(given[0], "ABS")
    match given[0].type:
        case Type.ANY:
            return unknown(Type.ANY, at)
        case Type.INTEGER:
            return strict(Type.INTEGER, integers.absolute, given[0], at=at)
        case Type.NUMBER:
            return strict(Type.NUMBER, decimals.absolute, given[0], at=at)
    return strict(Type.FLOAT, abs, coerced(given[0], Type.FLOAT), at=at)


def _mod(given: Sequence[Compiled], at: int) -> Compiled:
    return arithmetic("%", given[0], given[1], at)


# -- times ---------------------------------------------------------------------------------------

_FIELDS = ("year", "month", "day")


def _extract(given: Sequence[Compiled], at: int) -> Compiled:
    """EXTRACT(year FROM …), also month or day."""
    field, moment = given
    name = field.constant
    if name not in _FIELDS:
        raise Refused(f"extracts {name!r}. There are {', '.join(_FIELDS)}", field.at)
    if moment.type not in (*TEMPORAL, Type.NULL, Type.ANY) and not moment.is_null:
        raise Refused(f"extracts {name} from {moment.type}, which is neither date nor timestamp: cast it", moment.at)
    return strict(Type.NUMBER, partial(times.extracted, name), moment, at=at)


FUNCTIONS: Mapping[str, Function] = {
    "coalesce": Function(1, None, choices.coalesce),
    "nullif": Function(2, 2, choices.nullif),
    "greatest": Function(1, None, choices.greatest),
    "least": Function(1, None, choices.least),
    "lower": _of_text("lower", Type.TEXT, text.lower, "t"),
    "upper": _of_text("upper", Type.TEXT, text.upper, "t"),
    "btrim": _of_text("trim", Type.TEXT, text.trimmed, "tt", 1),
    "ltrim": _of_text("ltrim", Type.TEXT, text.trimmed_left, "tt", 1),
    "rtrim": _of_text("rtrim", Type.TEXT, text.trimmed_right, "tt", 1),
    **dict.fromkeys(("length", "char_length", "character_length"), _of_text("length", Type.INTEGER, len, "t")),
    "substr": _of_text("substring", Type.TEXT, text.substring, "tii", 2),
    "left": _of_text("left", Type.TEXT, text.left, "ti"),
    "right": _of_text("right", Type.TEXT, text.right, "ti"),
    "replace": _of_text("replace", Type.TEXT, text.replaced, "ttt"),
    "split_part": _of_text("split_part", Type.TEXT, text.split_part, "tti"),
    "starts_with": _of_text("starts_with", Type.BOOLEAN, text.starts_with, "tt"),
    "concat": Function(1, None, _concat),
    "abs": Function(1, 1, _abs),
    "round": Function(1, 2, _round),
    "floor": Function(1, 1, _whole("FLOOR", _FLOOR)),
    **dict.fromkeys(("ceil", "ceiling"), Function(1, 1, _whole("CEIL", _CEILING))),
    "mod": Function(2, 2, _mod),
    "extract": Function(2, 2, _extract),
}
"""By name in lower case; TRIM and SUBSTRING are parsed to `btrim` and `substr`."""
