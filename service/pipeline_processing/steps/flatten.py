"""Step `flatten`: turn fields of a json column into columns."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec
from msgspec import Raw
from pydantic import Field, model_validator

from pipeline_processing.errors import InvalidStep
from pipeline_processing.kinds import column_of_kind, text_of
from pipeline_processing.options.parts import Part
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import Row, Rows
from pipeline_processing.rows.columns import Kind, check_absent, check_different
from pipeline_processing.rows.json_values import loads
from pipeline_processing.rows.untouched import carried_form
from pipeline_processing.steps.json_fields import Converter, WrongType, converter
from pipeline_processing.steps.step import Batch, Step, StepContext


class FlattenOptions(Part):
    """
    `fields` are paths of fields, nested ones with points between the names, and the types of their values.

    A field's column is named `prefix` and its path, with `_` for each point. A field that isn't there, or is null, or
    whose object is, gives null; one of another type is a row error.
    """

    column: str = Field(description="A json column of objects.")
    prefix: str = ""
    fields: dict[str, Kind] = Field(min_length=1)
    keep: bool = Field(False, description="Whether the json column stays as well.")

    @model_validator(mode="after")
    def _paths_have_names(self) -> Self:
        if wrong := [path for path in self.fields if not all(path.split("."))]:
            raise ValueError(f"{', '.join(map(repr, wrong))} isn't a path: write names separated by single dots")
        return self

    @property
    def columns(self) -> Mapping[str, str]:
        """Path → name of its column."""
        return {path: self.prefix + path.replace(".", "_") for path in self.fields}


class Flatten(Step):
    """Appends a column for each field."""

    def __init__(self, options: FlattenOptions, context: StepContext) -> None:
        self.name = f"flatten: {options.column}"
        column = context.columns.require(options.column, step=self.name)
        if column.typed and column.kind is not Kind.JSON:
            raise InvalidStep(
                f"Step {self.name!r} needs a json column, and {column.name!r} is "
                f"{column.kind or 'of another type'}. Make it json in the query, or with `cast`."
            )
        self._column = column.name
        self._as_text = column.typed and context.carry == "text"
        self.touches = frozenset((column.name,))
        self._keep = options.keep
        self._row_errors = context.row_errors
        self._reaching = context.columns
        self._added = tuple(options.columns.values())
        check_different(self._added, step=self.name)
        left = context.columns if options.keep else context.columns.without([column.name], step=self.name)
        self.columns = left.plus(
            (
                column_of_kind(name, options.fields[path], context.carry, origins=column.origins)
                for path, name in options.columns.items()
            ),
            step=self.name,
        )
        self._fields = _Object()
        for place, (path, kind) in enumerate(options.fields.items()):
            self._fields.add(path.split("."), place, path, converter(kind, context.carry))

    async def __call__(self, batch: Batch) -> Batch:
        if not self._reaching.complete:
            self._reaching.require_in(batch.rows, [self._column], step=self.name)
            for row in batch.rows:
                kept = [name for name in row if self._keep or name != self._column]
                check_absent(self._added, kept, step=self.name)
        rows: Rows = []
        faults: dict[int, str] = {}
        for position, row in enumerate(batch.rows):
            try:
                rows.append(self._flat(row))
            except WrongType as wrong:
                faults[position] = f"{self._column}{wrong}"
                rows.append(row)
        batch = batch.changed(rows)
        return self._row_errors.reject(batch, faults, step=self.name) if faults else batch

    def _flat(self, row: Row) -> Row:
        values = [None] * len(self._added)
        if (document := row[self._column]) is not None:
            self._fields.read(Raw(document) if self._as_text else document, values)
        flat = dict(row)
        if not self._keep:
            del flat[self._column]
        flat.update(zip(self._added, values, strict=True))
        return flat


_members = msgspec.json.Decoder(dict[str, Raw]).decode


class _Object:
    """The wanted fields of an object, and of the objects nested in it."""

    def __init__(self, path: str = "") -> None:
        self._path = path
        self._leaves: list[tuple[str, int, str, Converter]] = []
        self._objects: dict[str, _Object] = {}

    def add(self, names: Sequence[str], place: int, path: str, convert: Converter) -> None:
        """Add a field of this object or a nested one. `place` is the index of its value."""
        name, *rest = names
        if rest:
            below = self._objects.setdefault(name, _Object(f"{self._path}.{name}"))
            below.add(rest, place, path, convert)
        else:
            self._leaves.append((name, place, path, convert))

    def read(self, document: Any, values: list[Any]) -> None:
        """Store the values of a document's fields in `values`. Raises WrongType with path and fault."""
        if (members := self._members(document)) is None:
            return
        for name, place, path, convert in self._leaves:
            if (value := members.get(name)) is not None:
                try:
                    values[place] = convert(value)
                except WrongType as wrong:
                    raise WrongType(f".{path}: {wrong}") from None
        for name, fields in self._objects.items():
            if (value := members.get(name)) is not None:
                fields.read(value, values)

    def _members(self, document: Any) -> Mapping[str, Any] | None:
        """Return the object's fields: fragments of JSON, or values of user code. None if it is null."""
        carried = document if isinstance(document, Raw) else carried_form(document)
        if carried is None:
            if not isinstance(document, Mapping):
                raise WrongType(f"{self._path}: not an object")
            return document
        try:
            return _members(carried)
        except msgspec.ValidationError:
            if text_of(carried).strip() == "null":
                return None
            raise WrongType(f"{self._path}: not an object") from None
        except (ValueError, RecursionError):
            return self._members_with_surrogates(carried)

    def _members_with_surrogates(self, carried: Raw | str) -> Mapping[str, Any]:
        """Parse an object with a lone surrogate, which Postgres and Python accept but msgspec doesn't."""
        try:
            document = loads(text_of(carried))
        except (ValueError, RecursionError):
            raise WrongType(f"{self._path}: not JSON, or too deeply nested") from None
        if not isinstance(document, Mapping):
            raise WrongType(f"{self._path}: not an object")
        return document


PLUGIN = Plugin(options=FlattenOptions, build=Flatten, description="Make columns of the fields of a json column.")
