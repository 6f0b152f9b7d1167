"""Step `python`: call a user's function."""

from collections.abc import Sequence
from copy import deepcopy
from types import TracebackType
from typing import Annotated, Any, Self

from pydantic import StringConstraints

from pipeline_processing.errors import PipelineError, StepAddedRows, StepFailed
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import Row, Rows
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS
from pipeline_processing.steps.imported import PATH_PATTERN
from pipeline_processing.steps.step import Batch, Step, StepContext
from pipeline_processing.steps.user_function import Raised, UserFunction
from pipeline_processing.user_code import NoException, described

_MUTABLE = (dict, list, set, bytearray)


class Python(Step):
    """
    Calls `module:function` with each batch, and takes the rows that it returns (see `UserFunction`).

    The function gets natural Python values (Decimal, datetime, dict, …). It may return fewer rows; those left out count
    as filtered. If it raises for a batch and rows may be rejected, it is called again with each row separately, as
    originally passed, and the rows for which it raises are rejected with the exception's message as the reason.
    """

    foreign = True

    def __init__(self, path: str, context: StepContext) -> None:
        self.name = f"python: {path}"
        self.columns = UNKNOWN_COLUMNS
        self.filtered = 0
        self._dataset = context.dataset
        self._row_errors = context.row_errors
        self._function = UserFunction(path, step=self.name, dataset=context.dataset)
        self._conversions = [(column.name, column.natural) for column in context.columns if column.natural is not None]
        # Values of typed columns are immutable.
        self._copies_deeply = context.row_errors.tolerant and not all(column.typed for column in context.columns)
        self._copies_deeply |= context.row_errors.tolerant and not context.columns.complete

    async def __aenter__(self) -> Self:
        await self._function.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._function.__aexit__(kind, error, trace)

    async def __call__(self, batch: Batch) -> Batch:
        given = [self._natural(row) for row in batch.rows]
        try:
            returned = await self._function(list(given))
        except PipelineError:
            raise  # the function used the service's errors on purpose
        except Exception as error:
            if self._row_errors.tolerant and not isinstance(error, NoException):
                return await self._row_by_row(batch, error)
            raise self._raised(batch, error) from error
        rows = self._checked(returned, batch, got=len(given))
        self.filtered += len(given) - len(rows)
        return Batch(rows, self._numbers(given, rows, batch), batch.span)

    def _natural(self, row: Row) -> Row:
        """Return a copy of a row with natural values, which the function may modify."""
        made = dict(row)
        for name, natural in self._conversions:
            if (value := made.get(name)) is not None:
                made[name] = natural(value)
        if self._copies_deeply:
            for name, value in made.items():
                if isinstance(value, _MUTABLE):
                    made[name] = deepcopy(value)
        return made

    async def _row_by_row(self, batch: Batch, error: Exception) -> Batch:
        outcomes: Sequence[Any] = [Raised(error)]
        if len(batch.rows) > 1:
            try:
                outcomes = await self._function.one_by_one([[self._natural(row)] for row in batch.rows])
            except NoException as ending:
                raise self._raised(batch, ending) from ending
        faults: dict[int, str] = {}
        rows: Rows = []
        kept: list[bool] = []
        for position, outcome in enumerate(outcomes):
            if isinstance(outcome, Raised):
                faults[position] = described(outcome.error)
                rows.append({})
            else:
                returned = self._checked(outcome, batch, got=1)
                rows += returned or [{}]
                kept.append(bool(returned))
        left = batch.changed(rows)
        if faults:
            left = self._row_errors.reject(left, faults, step=self.name)
        self.filtered += kept.count(False)
        return left.kept(kept)

    def _checked(self, returned: Any, batch: Batch, *, got: int) -> Rows:
        if not isinstance(returned, list):
            raise self._failed(
                batch, f"returned {type(returned).__name__}, not a list of rows. Return a list of dicts."
            )
        for row in returned:
            if not isinstance(row, dict):
                raise self._failed(
                    batch,
                    f"returned a list with a {type(row).__name__} in it. Every row must be a dict of column name → "
                    "value.",
                )
        if len(returned) > got:
            raise StepAddedRows(step=self.name, dataset=self._dataset, got=got, returned=len(returned))
        if len(set(map(id, returned))) < len(returned):
            raise self._failed(batch, "returned the same dict twice. Return every row once, as a separate dict.")
        return returned

    def _numbers(self, given: Rows, returned: Rows, batch: Batch) -> Sequence[int] | None:
        """Return the source row numbers of the returned rows; None if they are unknown and not needed."""
        places = _places(given, returned)
        if places is not None:
            return None if batch.numbers is None else [batch.numbers[place] for place in places]
        if not self._row_errors.tolerant:
            return None
        raise self._failed(
            batch,
            f"got {len(given):,} rows and returned {len(returned):,}, without saying which ones. With "
            "`on_row_error` skip or quarantine, return the dicts that the function got, for the rows that it keeps.",
        )

    def _raised(self, batch: Batch, error: Exception) -> StepFailed:
        return self._failed(
            batch, f"raised {described(error)}. Correct the function or the rows it got, then replay the run."
        )

    def _failed(self, batch: Batch, what: str) -> StepFailed:
        return StepFailed(what).at(f"Dataset {self._dataset!r}, step {self.name!r}, {batch.place()}")


def _places(given: Rows, returned: Rows) -> Sequence[int] | None:
    """
    Return the position of the given row that each returned row corresponds to: the same dict or, if the number of
    rows is unchanged, the row at the same position. None if unknown.
    """
    by_identity = {id(row): place for place, row in enumerate(given)}
    found = [by_identity.get(id(row)) for row in returned]
    known = [place for place in found if place is not None]
    if len(known) == len(found):
        return known
    in_order = all(place is None or place == at for at, place in enumerate(found))
    return range(len(given)) if len(returned) == len(given) and in_order else None


PLUGIN = Plugin(
    options=Annotated[str, StringConstraints(pattern=PATH_PATTERN)],
    build=Python,
    description="Call your own code: `module:function`, list of rows → list of rows, never more than it got.",
)
