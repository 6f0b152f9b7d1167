"""
How values of each kind travel between steps: *carried*, in the form that the dataset's format writes.

In the form "json", a carried value is one that msgspec writes as Postgres's `row_to_json` does (`msgspec.Raw` if it is
already a fragment of JSON). In the form "text", it is the text that `COPY` prints. So rows that no step reads need no
conversion, and values stay exact. Steps convert the values that they compute with `Form.carried`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from msgspec import Raw

from pipeline_processing.rows import values
from pipeline_processing.rows.columns import Column, Comparison, Kind
from pipeline_processing.rows.json_values import decimal_text, dumps, float_text, loads
from pipeline_processing.rows.loops import decimal_of, document_of, float_of, moment_of
from pipeline_processing.rows.untouched import remembering
from pipeline_processing.rows.values import same


@dataclass(frozen=True, slots=True)
class Form:
    """How values of one kind are carried in one form."""

    kind: Kind
    carried: Callable[[Any], Any]
    """A natural value (never None) → the carried value."""
    natural: Callable[[Any], Any] | None = None
    """See `Column.natural`."""
    comparison: Comparison | None = None


def form_of(kind: Kind, carry: str) -> Form:
    """Return how values of a kind are carried in the form `carry`."""
    return FORMS[carry][kind]


def column_of_kind(name: str, kind: Kind, carry: str, *, origins: Iterable[str] = ()) -> Column:
    """Return a column whose values a step computes from the source columns `origins`."""
    form = form_of(kind, carry)
    return Column(
        name, natural=form.natural, comparison=form.comparison, kind=kind, typed=True, origins=frozenset(origins)
    )


def text_of(carried: Any) -> str:
    """Return the text of a carried value (never None): a string unchanged, anything else as the format writes it."""
    match carried:
        case str():
            return carried
        case Raw():
            return str(carried, "utf-8")
        case bool():
            return "true" if carried else "false"
        case _:
            return str(carried)


# -- the form "json" -----------------------------------------------------------------------------


def _natural_float(carried: Raw | str) -> float:
    natural: float = remembering(float_of(carried), carried)  # Postgres and Python print 1e23 differently
    return natural


def _number_key(carried: Raw) -> Any:
    return values.number_key(text_of(carried))


def _float_key(carried: Raw) -> Any:
    return values.float_key(text_of(carried))


def _natural_date(carried: str) -> date | str:
    """Return a date, or the carried text if Python doesn't support the year."""
    try:
        return date.fromisoformat(carried)
    except ValueError:
        return carried


def _natural_document(carried: Raw) -> Any:
    return remembering(document_of(carried), carried)


def _json_integer(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise ValueError("an integer has 64 bits at most: make it a number")
    return value


def _integer_text(value: int) -> str:
    return str(_json_integer(value))


def _json_decimal(value: Decimal) -> Raw:
    return Raw(decimal_text(value).encode())


def _json_float(value: float) -> Raw:
    return Raw(float_text(value).encode())


def _json_document(value: Any) -> Raw:
    return Raw(dumps(value).encode())


def _date_text(value: date | str) -> str:
    return value if isinstance(value, str) else value.isoformat()


def _json_timestamp(value: datetime | str) -> str:
    return value if isinstance(value, str) else values.time_text(value.replace(tzinfo=None), "T")


def _json_timestamptz(value: datetime | str) -> str:
    return value if isinstance(value, str) else values.time_text(value.astimezone(UTC), "T")


_DATE = Comparison("date", values.time_key, values.date_literal)
_TIMESTAMP = Comparison("timestamp", values.time_key, values.timestamp_literal)
_TIMESTAMPTZ = Comparison("timestamptz", values.time_key, values.timestamptz_literal)


def _json_time(comparison: Comparison) -> Comparison:
    """Adapt a comparison to JSON's form of times: its keys are built from the text that Postgres prints."""

    def key(carried: str) -> Any:
        return values.time_key(carried.replace("T", " ", 1).replace("+00:00", "+00", 1))

    return Comparison(comparison.family, key, comparison.literal)


_JSON = (
    Form(Kind.TEXT, str, None, values.PLAIN_TEXT),
    Form(Kind.INTEGER, _json_integer, None, values.PLAIN_NUMBER),
    Form(Kind.NUMBER, _json_decimal, decimal_of, Comparison("number", _number_key, values.number_literal)),
    Form(Kind.FLOAT, _json_float, _natural_float, Comparison("number", _float_key, values.float_literal)),
    Form(Kind.BOOLEAN, same, None, values.PLAIN_BOOLEAN),
    Form(Kind.DATE, _date_text, _natural_date, _DATE),
    Form(Kind.TIMESTAMP, _json_timestamp, moment_of, _json_time(_TIMESTAMP)),
    Form(Kind.TIMESTAMPTZ, _json_timestamptz, moment_of, _json_time(_TIMESTAMPTZ)),
    Form(Kind.UUID, str, None, values.UUIDS),
    Form(Kind.JSON, _json_document, _natural_document),
)

# -- the form "text" -----------------------------------------------------------------------------


def _text_boolean(text: str) -> bool:
    return text == "t"


def _boolean_text(value: bool) -> str:
    return "t" if value else "f"


def _text_plain_document(text: str) -> Any:
    """Parse objects and arrays. Scalars stay text, so that JSON's `null` differs from SQL's, and `"1"` from `1`."""
    return loads(text) if text.lstrip()[:1] in ("{", "[") else text


def _text_natural_document(text: str) -> Any:
    return remembering(_text_plain_document(text), text)


def _document_text(value: Any) -> str:
    return dumps(value, separators=(", ", ": "))


def _timestamp_text(value: datetime | str) -> str:
    return value if isinstance(value, str) else values.time_text(value.replace(tzinfo=None), " ")


def _timestamptz_text(value: datetime | str) -> str:
    return value if isinstance(value, str) else values.time_text(value.astimezone(UTC), " ").removesuffix(":00")


_TEXT = (
    Form(Kind.TEXT, str, None, values.PLAIN_TEXT),
    Form(Kind.INTEGER, _integer_text, int, Comparison("number", int, values.number_literal)),
    Form(Kind.NUMBER, decimal_text, decimal_of, values.PLAIN_NUMBER),
    Form(Kind.FLOAT, float_text, _natural_float, Comparison("number", values.float_key, values.float_literal)),
    Form(Kind.BOOLEAN, _boolean_text, _text_boolean, Comparison("boolean", _text_boolean, values.boolean_literal)),
    Form(Kind.DATE, _date_text, _natural_date, _DATE),
    Form(Kind.TIMESTAMP, _timestamp_text, moment_of, _TIMESTAMP),
    Form(Kind.TIMESTAMPTZ, _timestamptz_text, moment_of, _TIMESTAMPTZ),
    Form(Kind.UUID, str, None, values.UUIDS),
    Form(Kind.JSON, _document_text, _text_natural_document),
)

FORMS: Mapping[str, Mapping[Kind, Form]] = {
    "json": {form.kind: form for form in _JSON},
    "text": {form.kind: form for form in _TEXT},
}

_FORGETFUL: Mapping[Any, Callable[[Any], Any]] = {
    _natural_float: float_of,
    _natural_document: document_of,
    _text_natural_document: _text_plain_document,
}


def forgetful(natural: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the conversion `Column.natural` as one to plain values, which don't remember their carried form."""
    return _FORGETFUL.get(natural, natural)
