"""The checks of `expect: {not_null: […], unique: […]}`, as steps at the end that pass all rows through or fail."""

from collections.abc import Sequence

from pipeline_processing.errors import ExpectationFailed
from pipeline_processing.steps.dedupe import KeyedStep
from pipeline_processing.steps.select import check_named_once
from pipeline_processing.steps.step import Batch, Step, StepContext


class NotNull(Step):
    """Raises ExpectationFailed for a row with a null in one of the named columns."""

    def __init__(self, names: Sequence[str], context: StepContext) -> None:
        self.name = f"expect not_null: {', '.join(names)}"
        check_named_once(names, step=self.name)
        self._dataset = context.dataset
        self._names = tuple(names)
        self.touches = frozenset(names)
        for name in names:
            context.columns.require(name, step=self.name)
        self.columns = context.columns

    async def __call__(self, batch: Batch) -> Batch:
        self.columns.require_in(batch.rows, self._names, step=self.name)
        for position, row in enumerate(batch.rows):
            for name in self._names:
                if row[name] is None:
                    raise ExpectationFailed(
                        f"{name!r} is null, and should not be (`expect`). Nothing was published. Correct the data or "
                        "the query, or leave such rows out with `filter`; then replay the run."
                    ).at(f"Dataset {self._dataset!r}, {batch.place(position)}")
        return batch


class Unique(KeyedStep):
    """
    Raises ExpectationFailed for a row that equals an earlier one in all named columns. As in SQL's UNIQUE, a row with
    a null in one of them equals no other.
    """

    def __init__(self, names: Sequence[str], context: StepContext) -> None:
        super().__init__(f"expect unique: {', '.join(names)}", names, context)
        self._dataset = context.dataset

    async def __call__(self, batch: Batch) -> Batch:
        self.columns.require_in(batch.rows, self._names, step=self.name)
        compared = [at for at, row in enumerate(batch.rows) if all(row[name] is not None for name in self._names)]
        new = await self.are_new([batch.rows[at] for at in compared])
        if not all(new):
            columns = ", ".join(map(repr, self._names))
            raise ExpectationFailed(
                f"{columns} should be unique (`expect`), and an earlier row has the same. Nothing was published. "
                "Correct the data or the query, or add `dedupe` to the steps; then replay the run."
            ).at(f"Dataset {self._dataset!r}, {batch.place(compared[new.index(False)])}")
        return batch
