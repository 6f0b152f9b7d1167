"""Step `rename`: rename columns."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from pipeline_processing.plugins import Plugin
from pipeline_processing.rows.columns import check_different
from pipeline_processing.rows.projection import Projection
from pipeline_processing.steps.step import Batch, Step, StepContext


class Rename(Step):
    """Renames columns, old → new, without changing their order."""

    name = "rename"

    def __init__(self, names: Mapping[str, str], context: StepContext) -> None:
        self.names = dict(names)
        self.touches = frozenset(names)
        self.columns = context.columns.renamed(self.names, step=self.name)
        self._reaching = context.columns

    def fold(self, projection: Projection) -> Projection:
        return projection.renamed(self.names)

    async def __call__(self, batch: Batch) -> Batch:
        self._reaching.require_in(batch.rows, self.names, step=self.name)
        if not self._reaching.complete:
            for row in batch.rows:
                check_different([self.names.get(name, name) for name in row], step=self.name)
        names = self.names
        return batch.changed([{names.get(name, name): value for name, value in row.items()} for row in batch.rows])


PLUGIN = Plugin(
    options=Annotated[dict[str, str], Field(min_length=1)],
    build=Rename,
    description="Give columns other names: old → new.",
)
