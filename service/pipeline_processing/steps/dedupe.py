"""Step `dedupe`: keep the first row of each key."""

from types import TracebackType
from typing import ClassVar, Literal, Self

from pydantic import Field

from pipeline_processing.options.parts import Part
from pipeline_processing.plugins import Plugin
from pipeline_processing.steps.row_columns import require_in_rows
from pipeline_processing.steps.row_keys import RowKey
from pipeline_processing.steps.seen_keys import SeenKeys
from pipeline_processing.steps.select import check_named_once
from pipeline_processing.steps.step import Batch, Step, StepContext


class DedupeOptions(Part):
    """Rows are duplicates if they are equal in all columns of `by`, as DISTINCT has it: nulls equal each other."""

    needs_temporary_files: ClassVar[bool] = True

    by: tuple[str, ...] = Field(min_length=1)
    keep: Literal["first"] = Field("first", description="In the order of the source.")


class Dedupe(Step):
    """Drops all rows of a key but the first, and counts them; in bounded memory, however many keys there are."""

    def __init__(self, options: DedupeOptions, context: StepContext) -> None:
        self.name = f"dedupe: {', '.join(options.by)}"
        check_named_once(options.by, step=self.name)
        self.columns = context.columns
        self.filtered = 0
        self._names = options.by
        self._key = RowKey(options.by, context.columns, step=self.name)
        self._seen = SeenKeys(self.name)
        self._names_known = context.columns.complete

    async def __aenter__(self) -> Self:
        await self._seen.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._seen.__aexit__(kind, error, trace)

    async def __call__(self, batch: Batch) -> Batch:
        if not self._names_known:
            require_in_rows(self._names, batch.rows, step=self.name)
        new = await self._seen.add([self._key.of(row) for row in batch.rows])
        first = batch.kept(new)
        self.filtered += len(batch.rows) - len(first.rows)
        return first


PLUGIN = Plugin(options=DedupeOptions, build=Dedupe, description="Keep the first row of each key, in bounded memory.")
