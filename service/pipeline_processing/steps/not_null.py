"""The check behind `expect: {not_null: […]}`, as a step that comes last."""

from collections.abc import Sequence

from pipeline_processing.errors import ExpectationFailed
from pipeline_processing.steps.row_columns import require_in_rows
from pipeline_processing.steps.select import check_named_once
from pipeline_processing.steps.step import Batch, Step, StepContext


class NotNull(Step):
    """Lets all rows pass, and fails where one has a null in one of the named columns."""

    def __init__(self, names: Sequence[str], context: StepContext) -> None:
        self.name = f"expect not_null: {', '.join(names)}"
        check_named_once(names, step=self.name)
        self._dataset = context.dataset
        self._names = tuple(names)
        for name in names:
            context.columns.require(name, step=self.name)
        self.columns = context.columns
        self._names_known = context.columns.complete

    async def __call__(self, batch: Batch) -> Batch:
        if not self._names_known:
            require_in_rows(self._names, batch.rows, step=self.name)
        for position, row in enumerate(batch.rows):
            for name in self._names:
                if row[name] is None:
                    raise ExpectationFailed(
                        f"{name!r} is null, and should not be (`expect`). Nothing was published. Mend the data or "
                        "the query, or leave such rows out with `filter`; then replay the run."
                    ).at(f"Dataset {self._dataset!r}, {batch.place(position)}")
        return batch
