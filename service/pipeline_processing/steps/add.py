"""Step `add`: constant columns."""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from pipeline_processing.errors import InvalidStep
from pipeline_processing.kinds import column_of_kind, form_of
from pipeline_processing.options.templates import names_in, pieces_of
from pipeline_processing.plugins import Plugin
from pipeline_processing.rows.columns import Kind, check_absent
from pipeline_processing.rows.projection import Projection
from pipeline_processing.steps.step import Batch, Step, StepContext


def _exact_in_any_format(constant: Any) -> Any:
    if isinstance(constant, int) and constant.bit_length() > 63:
        raise ValueError("an integer of more than 64 bits: write it as text, in quotes")
    if isinstance(constant, float) and not math.isfinite(constant):
        raise ValueError("not a finite number: write it as text, in quotes")
    return constant


Constant = Annotated[str | int | float | bool | None, BeforeValidator(_exact_in_any_format)]


class Constants(dict[str, Any]):
    """The options: name of a new column → its value in all rows."""

    @property
    def names(self) -> frozenset[str]:
        """Names in braces. Malformed text has none; building the step reports it."""
        names = frozenset[str]()
        for constant in self.values():
            if isinstance(constant, str):
                with suppress(ValueError):
                    names |= names_in(constant)
        return names


class Add(Step):
    """
    Appends columns with the same values in every row.

    `constants` are text, 64-bit integers, finite floats, booleans or None. In text, {names} are replaced by the run's
    arguments.
    """

    name = "add"

    def __init__(self, constants: Mapping[str, Any], context: StepContext) -> None:
        filled = {name: _filled(value, context.arguments) for name, value in constants.items()}
        kinds = {name: _kind(value) for name, value in filled.items()}
        self.constants = {
            name: None if value is None else form_of(kinds[name], context.carry).carried(value)
            for name, value in filled.items()
        }
        """Column name → carried value."""
        added = (column_of_kind(name, kind, context.carry) for name, kind in kinds.items())
        self.columns = context.columns.plus(added, step=self.name)
        self.touches = frozenset(constants)
        self._reaching = context.columns

    def fold(self, projection: Projection) -> Projection:
        return projection.plus(self.constants)

    async def __call__(self, batch: Batch) -> Batch:
        constants = self.constants
        if not self._reaching.complete:
            for row in batch.rows:
                check_absent(constants, row, step=self.name)
        return batch.changed([row | constants for row in batch.rows])


def _kind(value: Any) -> Kind:
    match value:
        case bool():
            return Kind.BOOLEAN
        case int():
            return Kind.INTEGER
        case float():
            return Kind.FLOAT
        case _:
            return Kind.TEXT  # of None too, as Postgres's type of an untyped NULL


def _filled(value: Any, arguments: Mapping[str, Any]) -> Any:
    """Replace {names} in text. Return other constants unchanged."""
    if not isinstance(value, str):
        return value
    try:
        pieces = pieces_of(value)
    except ValueError as error:
        raise InvalidStep(f"Step 'add': {error}.") from None
    filled = ""
    for literal, name in pieces:
        filled += literal
        if name is None:
            continue
        if name not in arguments:
            raise InvalidStep(
                f"Step 'add' uses {{{name}}} in {value!r}, but the available names are {', '.join(arguments)}. "
                "Correct the name, send it as a param of the request, or write {{ and }} for plain braces."
            )
        filled += "" if arguments[name] is None else str(arguments[name])
    return filled


PLUGIN = Plugin(
    options=Annotated[dict[str, Constant], Field(min_length=1), AfterValidator(Constants)],
    build=Add,
    description="Add constant columns. Text may hold {agency_id}, {run_id}, {since}, {until} or {a param of the "
    "request}.",
)
