"""Step `python`: call a user's function."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, StringConstraints, Tag

from pipeline_processing.errors import PipelineError, StepAddedRows, StepFailed
from pipeline_processing.options.parts import Part
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import Rows
from pipeline_processing.rows.columns import Kind
from pipeline_processing.steps.handover import AllColumns, DeclaredColumns, Given, Handover, WrongColumns
from pipeline_processing.steps.imported import PATH_PATTERN
from pipeline_processing.steps.step import Batch, Step, StepContext
from pipeline_processing.steps.user_function import Raised, UserFunction
from pipeline_processing.user_code import NoException, described

_Path = Annotated[str, StringConstraints(pattern=PATH_PATTERN)]


class PythonOptions(Part):
    """
    A function, the columns that it reads and those that it adds. It gets rows with the columns of `reads` only, may
    change their values, and returns rows with these columns and those of `adds`. All other columns stay as they are.
    """

    function: _Path = Field(description="`module:function`, list of rows → list of rows, never more than it got.")
    reads: tuple[str, ...] = Field(min_length=1, description="The columns that the function gets and may change.")
    adds: dict[str, Kind] = Field(
        {}, description="New columns and their types; of a column of `reads`, the type that it gets."
    )


class Python(Step):
    """
    Calls `module:function` with each batch, and takes the rows that it returns (see `UserFunction`).

    `options` are the path, or a declaration of the columns that it reads and adds.

    The function gets natural Python values (Decimal, datetime, dict, …). It may return fewer rows; those left out count
    as filtered. If it raises for a batch and rows may be rejected, it is called again with each row separately, as
    originally passed, and the rows for which it raises are rejected with the exception's message as the reason.
    """

    user_code = True

    def __init__(self, options: str | PythonOptions, context: StepContext) -> None:
        path = options if isinstance(options, str) else options.function
        self.name = f"python: {path}"
        self.filtered = 0
        self._dataset = context.dataset
        self._row_errors = context.row_errors
        self._handover: Handover
        if isinstance(options, str):
            self._handover = AllColumns(context)
        else:
            self._handover = DeclaredColumns(options.reads, options.adds, context, step=self.name)
        self.columns = self._handover.columns
        self.touches = None if isinstance(options, str) else frozenset((*options.reads, *options.adds))
        self.foreign = not self._handover.joins
        self._function = UserFunction(path, step=self.name, dataset=context.dataset)

    async def __aenter__(self) -> Self:
        await self._function.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._function.__aexit__(kind, error, trace)

    async def __call__(self, batch: Batch) -> Batch:
        given = self._handover.given(batch.rows)
        try:
            returned = await self._function(list(given.rows))
        except PipelineError:
            raise  # the function used the service's errors on purpose
        except Exception as error:
            if self._row_errors.tolerant and not isinstance(error, NoException):
                return await self._row_by_row(batch, error)
            raise self._raised(batch, error) from error
        left = self._checked(returned, batch, got=len(batch.rows))
        self.filtered += len(batch.rows) - len(left)
        places = self._places(given.rows, left, batch)
        if places is None:
            return Batch(left, None, batch.span, batch.records)
        return self._left(batch, given, places, left, {})

    async def _row_by_row(self, batch: Batch, error: Exception) -> Batch:
        given = self._handover.given(batch.rows)
        outcomes: Sequence[Any] = [Raised(error)]
        if len(batch.rows) > 1:
            try:
                outcomes = await self._function.one_by_one([[row] for row in given.rows])
            except NoException as ending:
                raise self._raised(batch, ending) from ending
        faults: dict[int, str] = {}
        places: list[int] = []
        returned: Rows = []
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, Raised):
                faults[place] = described(outcome.error)
            elif self._checked(outcome, batch, got=1):
                places.append(place)
                returned += outcome
        self.filtered += len(outcomes) - len(faults) - len(returned)
        return self._left(batch, given, places, returned, faults)

    def _left(
        self, batch: Batch, given: Given, places: Sequence[int], returned: Rows, faults: Mapping[int, str]
    ) -> Batch:
        """
        Return the rows that leave the step, after rejecting others. The function returned `returned` for the rows at
        `places`, and raised for those in `faults`.
        """
        values = [given.values[place] for place in places]
        try:
            rows, wrong = self._handover.taken([batch.rows[place] for place in places], values, returned)
        except WrongColumns as error:
            raise self._failed(batch, str(error)) from None
        if wrong or faults:
            faults = {**faults, **{places[at]: reason for at, reason in wrong.items()}}
            self._row_errors.reject(batch, faults, step=self.name)
            rows = [row for at, row in enumerate(rows) if at not in wrong]
            places = [place for at, place in enumerate(places) if at not in wrong]
        numbers = None if batch.numbers is None else [batch.numbers[place] for place in places]
        return Batch(rows, numbers, batch.span, batch.records)

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

    def _places(self, given: Rows, returned: Rows, batch: Batch) -> Sequence[int] | None:
        """Return the places of the returned rows among those given; None if they are unknown and not needed."""
        places = _places(given, returned)
        if places is not None or not (self._row_errors.tolerant or self._handover.joins):
            return places
        needed = "With `reads`" if self._handover.joins else "With `on_row_error` skip or quarantine"
        raise self._failed(
            batch,
            f"got {len(given):,} rows and returned {len(returned):,}, without saying which ones. {needed}, return the "
            "dicts that the function got, for the rows that it keeps.",
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


def _short_or_long(options: Any) -> str:
    return "declaration" if isinstance(options, Mapping | PythonOptions) else "path"


PLUGIN = Plugin(
    options=Annotated[
        Annotated[_Path, Tag("path")] | Annotated[PythonOptions, Tag("declaration")], Discriminator(_short_or_long)
    ],
    build=Python,
    description="Call your own code: `module:function`, list of rows → list of rows, never more than it got.",
)
