"""Step `dedupe`: keep the first row of each key."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from pipeline_processing.options.parts import Part
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import Rows
from pipeline_processing.steps.row_keys import RowKey
from pipeline_processing.steps.select import check_named_once
from pipeline_processing.steps.step import Batch, Step, StepContext


class DedupeOptions(Part):
    """Rows are duplicates if they are equal in all columns of `by`, as DISTINCT has it: nulls equal each other."""

    needs_temporary_files: ClassVar[bool] = True

    by: tuple[str, ...] = Field(min_length=1)
    keep: Literal["first"] = Field("first", description="In the order of the source.")


class KeyedStep(Step):
    """Base of steps that remember the keys of any number of rows in bounded memory."""

    def __init__(self, name: str, key: Sequence[str], context: StepContext) -> None:
        from pipeline_processing.steps.seen_keys import SeenKeys  # here, as few jobs need SQLite

        self.name = name
        check_named_once(key, step=name)
        self.columns = context.columns
        self._names = tuple(key)
        self.touches = frozenset(key)
        self._key = RowKey(key, context.columns, step=name)
        self._seen = SeenKeys(name)

    async def __aenter__(self) -> Self:
        await self._seen.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._seen.__aexit__(*error)

    async def are_new(self, rows: Rows) -> list[bool]:
        """Return for each row whether no earlier row had its key."""
        return await self._seen.add([self._key.of(row) for row in rows])


class Dedupe(KeyedStep):
    """Drops all rows of a key except the first, and counts them as filtered."""

    def __init__(self, options: DedupeOptions, context: StepContext) -> None:
        super().__init__(f"dedupe: {', '.join(options.by)}", options.by, context)

    async def __call__(self, batch: Batch) -> Batch:
        self.columns.require_in(batch.rows, self._names, step=self.name)
        first = batch.kept(await self.are_new(batch.rows))
        self.filtered += len(batch.rows) - len(first.rows)
        return first


PLUGIN = Plugin(options=DedupeOptions, build=Dedupe, description="Keep the first row of each key, in bounded memory.")
