"""
Where the artifacts of a dataset go: the template `object_key` of the job config, which may name columns.

A row's values of these columns choose its *partition*, the folder of its artifact. A key always names its run: no two
runs write the same object, and `gc` finds the run of an upload that was never recorded.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from msgspec import Raw
from pydantic import AfterValidator

from pipeline_processing.agency_keys import AgencyId, encoded_key
from pipeline_processing.errors import DataError, InvalidStep
from pipeline_processing.kinds import text_of
from pipeline_processing.options.templates import pieces_of
from pipeline_processing.ports import Row
from pipeline_processing.rows.columns import Column, Columns, Kind
from pipeline_processing.steps.step import Batch, Step, StepContext

BUILT_IN = ("agency_id", "dataset", "date", "run_id")
"""Names in a template that aren't columns. `date` is the snapshot's, in UTC."""
RUN_FOLDER = "run_id={run_id}"
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""Stands for null and empty text, as Hive, Spark and DuckDB read it."""
_LONGEST_NAME = 255
_LONGEST_URL = 1024
"""Bytes; S3's limit of a key. The URL is longer by little, and known for every destination."""
_LITERAL = re.compile(r"[A-Za-z0-9._=+@,-]*")
_UNFIT_KINDS = (Kind.FLOAT, Kind.JSON, Kind.TIMESTAMP, Kind.TIMESTAMPTZ)
_FIT_TYPES = (str, Raw, int, Decimal, date, UUID)


def _checked(template: str) -> str:
    folders = template.split("/")
    for folder in folders:
        pieces = pieces_of(folder)
        if not folder or folder[0] in "._" or folder.startswith("part-"):
            raise ValueError(
                f"{template!r} has the folder {folder!r}: none may be empty, or begin with a point, an underscore or "
                "`part-`, which have a meaning of their own"
            )
        if wrong := [literal for literal, _ in pieces if not _LITERAL.fullmatch(literal)]:
            raise ValueError(f"{template!r} has {wrong[0]!r}: outside braces, use letters, digits and - _ . = + @ ,")
        if not pieces[0][0] and pieces[0][1] not in BUILT_IN:
            raise ValueError(
                f"{template!r} has the folder {folder!r}: begin it with text, as in `{pieces[0][1]}={folder}`, because "
                "a value may be empty"
            )
    if [folder for folder in folders if folder.startswith("run_id=")] != [RUN_FOLDER]:
        raise ValueError(f"{template!r} must have the folder `{RUN_FOLDER}` once, so that runs write different objects")
    return template


ObjectKey = Annotated[str, AfterValidator(_checked)]
"""A template for the folder of a dataset's artifacts, e.g. `exports/{date}/run_id={run_id}/{dataset}`."""


def columns_in(template: str | None) -> tuple[str, ...]:
    """Return the columns that a checked template names."""
    names = (name for _, name in pieces_of(template or "") if name is not None and name not in BUILT_IN)
    return tuple(dict.fromkeys(names))


class PartitionBy(Step):
    """Checks that rows have the columns of `object_key`, and keeps these columns readable until rows are written."""

    name = "object_key"

    def __init__(self, names: Sequence[str], context: StepContext) -> None:
        """Raises UnknownColumn, or InvalidStep for a column whose values can't name a folder."""
        for name in names:
            column = context.columns.require(name, step=self.name)
            if column.kind in _UNFIT_KINDS or (column.typed and column.kind is None and column.comparison is None):
                kind = "an array or another compound type" if column.kind is None else f"of kind {column.kind}"
                raise InvalidStep(
                    f"`object_key` names the column {name!r}, which is {kind}. Name a column of text, whole or exact "
                    "numbers, booleans, dates or uuids; `cast` or `derive` makes one."
                )
        self.columns = context.columns
        self.touches = frozenset(names)
        self._names = tuple(names)

    async def __call__(self, batch: Batch) -> Batch:
        self.columns.require_in(batch.rows, self._names, step=self.name)
        return batch


class Folders:
    """The folders of one dataset's artifacts in one attempt, below a destination."""

    def __init__(
        self, template: str, *, dataset: str, agency_id: AgencyId, run_id: str, snapshot_at: datetime, columns: Columns
    ) -> None:
        """`columns` are those of the rows written, as far as they are known."""
        built_in = {
            "agency_id": _unhidden(encoded_key(agency_id)),
            "dataset": dataset,
            "date": snapshot_at.date().isoformat(),
            "run_id": run_id,
        }
        filled, self._pieces = "", list[tuple[str, Column, dict[str, str]]]()
        for literal, name in pieces_of(template):
            filled += literal
            if name in built_in:
                filled += built_in[name]
            elif name is not None:
                self._pieces.append((filled, columns.require(name, step=PartitionBy.name), {}))
                filled = ""
        self._tail = filled

    @property
    def only(self) -> str | None:
        """The folder if it is the same for all rows."""
        return None if self._pieces else self._tail

    def divide(self, rows: Any, *, first: str | None) -> Iterable[tuple[str, Any]]:
        """Split rows by their folder. Rows of the folder `first`, if any, come first; the order is kept otherwise."""
        if not self._pieces:
            return [(self._tail, rows)]
        groups: dict[str, list[Row]] = {}
        for row in rows:
            groups.setdefault(self._of(row), []).append(row)
        return sorted(groups.items(), key=lambda group: group[0] != first)

    def _of(self, row: Mapping[str, Any]) -> str:
        folder = ""
        for text, column, known in self._pieces:
            value = row[column.name]
            if type(value) is not str:
                name = _folder_name(value, column)
            elif (name := known.get(value, "")) == "":
                name = known[value] = _folder_name(value, column)
            folder += text + name
        return folder + self._tail


def check_lengths(key: str, *, urls: Iterable[str]) -> None:
    """Raise DataError if a destination with one of these URLs may refuse the key, which must show before a decision."""
    for name in (name for name in key.split("/") if len(name) > _LONGEST_NAME):
        raise DataError(
            f"`object_key` makes a name of {len(name):,} bytes, which begins {name[:40]!r}; {_LONGEST_NAME} are "
            "allowed. Use a column with shorter values."
        )
    for url in urls:
        if (length := len(url) + 1 + len(key)) > _LONGEST_URL:
            raise DataError(
                f"`object_key` makes the URL of an object {length:,} bytes long; {_LONGEST_URL:,} are allowed. "
                "Shorten the template, or use columns with shorter values."
            )


def _folder_name(value: Any, column: Column) -> str:
    """Return a carried value as a part of a folder's name: percent-encoded, so that different values differ."""
    if value is None:
        return NO_VALUE
    if column.kind is Kind.BOOLEAN and column.natural is not None:
        value = column.natural(value)  # CSV carries `t` and `f`
    elif not column.typed and (not isinstance(value, _FIT_TYPES) or isinstance(value, datetime)):
        raise DataError(
            f"`object_key` names the column {column.name!r}, and a value there is a {type(value).__name__}. Make the "
            "steps return text, a whole or exact number, a boolean, a date or a uuid."
        )
    return quote(text_of(value), safe="") or NO_VALUE


def _unhidden(name: str) -> str:
    """Escape what makes readers skip a folder, or a file system read it as another one."""
    return f"%{ord(name[0]):02X}{name[1:]}" if name[0] in "._" else name


def colliding(templates: Iterable[tuple[str, str | None]]) -> Iterator[tuple[str, str]]:
    """Yield pairs of datasets, given with their templates, that would write the same objects."""
    seen: dict[str, str] = {}
    for dataset, template in templates:
        if template is not None:
            other = seen.setdefault(template.replace("{dataset}", dataset), dataset)
            if other != dataset:
                yield other, dataset
