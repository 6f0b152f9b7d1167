"""Step `add`: constant columns."""

from collections.abc import Collection, Mapping
from string import Formatter
from typing import Any

from pipeline_processing.errors import InvalidStep
from pipeline_processing.ports import Batch, Column, Columns
from pipeline_processing.values import comparison_of


class Add:
    """Adds the same values to every row, after the other columns."""

    name = "add"
    filtered = 0

    def __init__(self, constants: Mapping[str, Any], columns: Columns | None, *, arguments: Mapping[str, Any]) -> None:
        _check_absent(constants, () if columns is None else [column.name for column in columns])
        self.constants = {name: _filled(value, arguments) for name, value in constants.items()}
        self.columns = (
            None
            if columns is None
            else (
                *columns,
                *(Column(name, comparison=comparison_of(value)) for name, value in self.constants.items()),
            )
        )

    async def __call__(self, batch: Batch) -> Batch:
        constants = self.constants
        if self.columns is None:
            for row in batch:
                _check_absent(constants, row)
        return [row | constants for row in batch]


def _check_absent(constants: Mapping[str, Any], present: Collection[str]) -> None:
    if twice := [name for name in constants if name in present]:
        raise InvalidStep(
            f"Step 'add' would replace the column {', '.join(map(repr, twice))}, which is there already. "
            "Choose another name, or leave the old one out with `select`."
        )


def _filled(value: Any, arguments: Mapping[str, Any]) -> Any:
    """Replace {names} in text; other constants stay as they are."""
    if not isinstance(value, str):
        return value
    try:
        pieces = list(Formatter().parse(value))
    except ValueError as error:
        raise InvalidStep(f"Step 'add' can't read {value!r}: {error}. Write {{{{ and }}}} for plain braces.") from None
    filled = ""
    for literal, name, spec, conversion in pieces:
        filled += literal
        if name is None:
            continue
        if name not in arguments or spec or conversion:
            raise InvalidStep(
                f"Step 'add' uses {{{name}}} in {value!r}, but there is only {', '.join(arguments)}. "
                "Correct the name, send it as a param of the request, or write {{ and }} for plain braces."
            )
        filled += "" if arguments[name] is None else str(arguments[name])
    return filled
