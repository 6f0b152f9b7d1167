"""NDJSON: a JSON object a line."""

import math
from decimal import Decimal
from typing import Any

import msgspec

from pipeline_processing.formats.json_values import dumps, non_finite
from pipeline_processing.ports import Batch, Columns


class Ndjson:
    """
    Writes one object a row. Carried values are JSON already (`msgspec.Raw`) or what msgspec writes by itself.

    `exact` is True where all values are carried; where a step may have put values of its own, those whose JSON
    would not be exact are looked for first.
    """

    carry = "json"

    def __init__(self, *, exact: bool) -> None:
        self._exact = exact
        self._encoder = msgspec.json.Encoder(enc_hook=str)
        self.rows = 0

    def begin(self, columns: Columns) -> bytes:
        return b""

    def encode(self, batch: Batch) -> bytes:
        if not self._exact:
            batch = [{name: _exact(value) for name, value in row.items()} for row in batch]
        self.rows += len(batch)
        return self._encoder.encode_lines(batch)

    def end(self) -> bytes:
        return b""


def _exact(value: Any) -> Any:
    """A step's own value, so that its JSON is exact: decimals in digits, NaN and infinities as strings."""
    if isinstance(value, float):
        return value if math.isfinite(value) else non_finite(value)
    if isinstance(value, Decimal | dict | list | tuple) or (isinstance(value, int) and value.bit_length() > 63):
        return msgspec.Raw(dumps(value))
    return value
