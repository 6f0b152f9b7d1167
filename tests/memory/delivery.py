"""Rows as a source delivers them on request, in plain Python: the meaning of `ports.Template`."""

from array import array
from collections.abc import Sequence
from typing import Any

import msgspec

from pipeline_processing.model import CsvOptions
from pipeline_processing.ports import Template
from pipeline_processing.rows.lines import Lines

Outputs = Template | Sequence[int | Template]


def delivered(records: Sequence[Sequence[Any]], outputs: Outputs | None) -> Lines | Sequence[Sequence[Any]]:
    """What `ports.Delivers` says of a source that has these records of carried values."""
    if outputs is None:
        return records
    if isinstance(outputs, Template):
        return lines_of([written(record, outputs) for record in records])
    return [
        tuple(record[each] if isinstance(each, int) else _value(record, each) for each in outputs) for record in records
    ]


def _value(record: Sequence[Any], template: Template) -> msgspec.Raw | str:
    data = written(record, template)
    return msgspec.Raw(data) if template.csv is None else data.decode()


def lines_of(rows: Sequence[bytes]) -> Lines:
    """Encoded rows."""
    ends = array("Q")
    for row in rows:
        ends.append((ends[-1] if ends else 0) + len(row))
    return Lines(b"".join(rows), memoryview(ends))


def written(record: Sequence[Any], template: Template) -> bytes:
    """What a template makes of a record."""
    values = [record[index] for index, _ in template.columns]
    if template.csv is None:
        fields = [_json(value) for value in values]
    else:
        alone = len(values) == 1 and template.tail in (b"\n", b"\r\n")
        fields = [_field(value, template.csv, alone=alone) for value in values]
    prefixes = [prefix for _, prefix in template.columns]
    return b"".join(prefix + field for prefix, field in zip(prefixes, fields, strict=True)) + template.tail


def _json(value: Any) -> bytes:
    if isinstance(value, msgspec.Raw) and bytes(value) in (b"NaN", b"Infinity", b"-Infinity"):
        return b'"' + bytes(value) + b'"'
    return msgspec.json.encode(value)


def _field(value: str | None, options: CsvOptions, *, alone: bool) -> bytes:
    if value is None:
        return options.null.encode()
    quotes = value == options.null or (alone and value == "\\.") or set(value) & {options.delimiter, '"', "\r", "\n"}
    return ('"' + value.replace('"', '""') + '"' if quotes else value).encode()
