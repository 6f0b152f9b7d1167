"""NDJSON: one JSON object per line."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import chain, repeat, starmap
from operator import attrgetter
from typing import Any

import msgspec

from pipeline_processing.formats.compression import compressor
from pipeline_processing.model import Compression, CsvOptions
from pipeline_processing.ports import Packer, RowMaker, Template
from pipeline_processing.rows import loops
from pipeline_processing.rows.columns import Columns
from pipeline_processing.rows.json_values import dumps, float_text, non_finite, plain
from pipeline_processing.rows.projection import Projection
from pipeline_processing.rows.untouched import carried_form
from pipeline_processing.rows.values import time_text


class Ndjson:
    """
    Writes one object per row. Carried values are already JSON (`msgspec.Raw`), or msgspec writes them exactly.

    `exact` says that all values are carried. Otherwise, values of user code are first converted to exact JSON.
    `numbers` are the columns that may hold fractional numbers, and so NaN; None if they are unknown.
    """

    carry = "json"
    weight = 1

    def __init__(self, *, exact: bool, numbers: Sequence[str] | None = None) -> None:
        self._exact = exact
        self._numbers = numbers
        self._fields: dict[str, str] = {}
        """Column → field of the struct, if rows are structs."""
        self._encoder = msgspec.json.Encoder(enc_hook=plain)

    def head(self) -> bytes:
        return b""

    def row_maker(self, projection: Projection) -> RowMaker:
        """Return a maker of structs, which are faster than dicts and ignored by the garbage collector."""
        if any(map(_unfit_for_struct, projection.names)):
            return projection.rows
        # Struct fields must be identifiers; `rename` sets their names in the JSON.
        fields = [f"f{number}" for number in range(len(projection.names))]
        varying = len(projection.indexes)
        struct = msgspec.defstruct(
            "Row",
            [*fields[:varying], *zip(fields[varying:], repeat(Any), projection.constants)],
            rename=dict(zip(fields, projection.names, strict=True)),
            gc=False,
        )
        self._fields = dict(zip(projection.names, fields, strict=True))
        return lambda records: list(starmap(struct, projection.values(records)))

    def template(self, projection: Projection, *, whole: bool) -> Template:
        prefixes = [b"," + self._beginning(name) for name in projection.names]
        prefixes[0] = b"{" + prefixes[0][1:] if whole else b""
        constants = dict(zip(projection.names[len(projection.indexes) :], projection.constants, strict=True))
        tail = b"," + self.encode([constants])[1:] if constants else b"}\n"
        return Template(tuple(zip(projection.indexes, prefixes, strict=False)), tail if whole else tail[:-2])

    def encode(self, batch: list[Any]) -> bytes:
        if type(batch[0]) is msgspec.Raw:
            return b"".join(batch)
        if not self._exact and not _is_plain(batch):
            batch = [{name: _exact(value) for name, value in row.items()} for row in batch]
        try:
            lines = self._encoder.encode_lines(batch)
            if self._may_have_bare_words(batch, lines):
                lines = self._encoder.encode_lines([_with_quoted_words(row) for row in batch])
            return lines
        except UnicodeEncodeError:  # a lone surrogate
            return "".join(dumps(_with_quoted_words(row)) + "\n" for row in batch).encode()

    def _beginning(self, name: str) -> bytes:
        """Return a field up to its value: `"name":`."""
        return self.encode([{name: None}])[1:].removesuffix(b"null}\n")

    def longest_row(self, encoded: bytes) -> int:
        return max(map(len, encoded.split(b"\n")))

    def packer(self, compression: Compression, *, most_held: int) -> Packer:
        return compressor(compression)

    def _may_have_bare_words(self, batch: list[Any], lines: bytes) -> bool:
        """Return whether a line may contain an unquoted NaN or infinity. The slow search of all lines comes last."""
        numbers = self._numbers
        if numbers == () or not _may_have_words(lines):
            return False
        if numbers is not None:
            found = any(_may_have_words(self._joined(batch, name)) for name in numbers)
        else:
            found = not isinstance(batch[0], dict) or _may_have_words(loops.short_fragments(batch))
        if not found:
            return False
        return b":NaN" in lines or b":Inf" in lines or b":-Inf" in lines

    def _joined(self, batch: list[Any], name: str) -> bytes:
        """Join the values of a column. Where it was delivered as part of another value, the source has quoted words."""
        values: Iterable[Any] = ()
        if isinstance(batch[0], dict):
            values = [row.get(name) for row in batch]
        elif name in self._fields:
            values = map(attrgetter(self._fields[name]), batch)
        try:
            return b"".join(filter(None, values))
        except TypeError:  # not only fragments
            return _ANY_WORD


_ANY_WORD = b"NaN"
_unfit_for_struct = re.compile(r'["\\\x00-\x1f]').search
"""Characters that msgspec rejects in the JSON names of struct fields."""


def _may_have_words(text: bytes) -> bool:
    """Search for single bytes, which is fast and in numbers exact."""
    return b"N" in text or b"I" in text


def _with_quoted_words(row: Any) -> Any:
    """Return a row with NaN and the infinities as strings, as `row_to_json` writes them."""
    if isinstance(row, dict):
        return {name: _quoted_word(value) for name, value in row.items()}
    return type(row)(*map(_quoted_word, msgspec.structs.astuple(row)))


def _quoted_word(value: Any) -> Any:
    if isinstance(value, msgspec.Raw) and bytes(value) in (b"NaN", b"Infinity", b"-Infinity"):
        return bytes(value).decode()
    return value


def _exact(value: Any) -> Any:
    """Convert a value of user code so that its JSON is exact and valid UTF-8."""
    exact = _EXACT.get(type(value), _exact_of_any)
    return value if exact is None else exact(value)


def _exact_of_any(value: Any) -> Any:
    if isinstance(value, float | dict | list) and (carried := carried_form(value)) is not None:
        return carried
    if isinstance(value, float):
        return msgspec.Raw(float_text(value)) if math.isfinite(value) else non_finite(value)
    if isinstance(value, Decimal | datetime | dict | list | tuple | int) and not isinstance(value, bool):
        return msgspec.Raw(dumps(value))
    return value


# A fast path for common types, because every value of every row is looked up.
_EXACT: dict[type, Callable[[Any], Any] | None] = {
    str: None,
    type(None): None,
    bool: None,
    int: None,
    msgspec.Raw: None,
    Decimal: lambda value: msgspec.Raw(format(value, "f")) if value.is_finite() else non_finite(value),
    datetime: lambda value: time_text(value, "T"),
}
_PLAIN = frozenset(kind for kind, exact in _EXACT.items() if exact is None)


def _is_plain(batch: list[Any]) -> bool:
    """Return whether msgspec writes all values exactly as they are."""
    if loops.COMPILED:
        return loops.are_plain(batch)
    return set(map(type, batch)) == {dict} and _PLAIN.issuperset(
        map(type, chain.from_iterable(map(dict.values, batch)))
    )


CARRY = Ndjson.carry


def new(
    *, header: Sequence[str], fixed: bool, columns: Columns, numbers: Sequence[str] | None, csv: CsvOptions
) -> Ndjson:
    """See `formats.new_format`."""
    return Ndjson(exact=fixed, numbers=numbers)
