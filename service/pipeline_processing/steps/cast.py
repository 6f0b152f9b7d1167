"""Step `cast`: change columns' types."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from pipeline_processing.expressions.expression import cast_of
from pipeline_processing.plugins import Plugin
from pipeline_processing.steps.derive import Computed
from pipeline_processing.steps.step import StepContext

_KINDS = {"number": "numeric"}
"""Kinds of columns that have another name in SQL."""


class Cast(Computed):
    """
    Changes columns' types as SQL's CAST does. A value that can't be cast is a row error.

    Types are SQL types (`numeric(10, 2)`, `timestamp with time zone`, …) or kinds of columns. Casting a column to its
    own type costs nothing.
    """

    name = "cast"

    def __init__(self, types: Mapping[str, str], context: StepContext) -> None:
        casts = {
            name: cast_of(
                name, _KINDS.get(to.strip().lower(), to), context.columns, carry=context.carry, step=self.name
            )
            for name, to in types.items()
        }
        changed = {name: each for name, each in casts.items() if each is not None}
        super().__init__({name: each.run for name, each in changed.items()}, context)
        self.touches = frozenset(types)
        self.columns = context.columns.replaced(
            [replace(each.result, name=name) for name, each in changed.items()], step=self.name
        )


PLUGIN = Plugin(
    options=Annotated[dict[str, str], Field(min_length=1)],
    build=Cast,
    description="Change columns' types, as CAST does: column → type. A value that can't be cast is a row error.",
)
