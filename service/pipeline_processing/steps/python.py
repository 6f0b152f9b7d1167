"""Step `python`: call a user's function."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, StringConstraints, Tag

from pipeline_processing.errors import PipelineError, StepAddedRows, StepFailed
from pipeline_processing.options.parts import Part
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import Rows
from pipeline_processing.rows.columns import Kind
from pipeline_processing.rows.loops import are_same
from pipeline_processing.steps.handover import AllColumns, DeclaredColumns, Given, Handover, WrongRows
from pipeline_processing.steps.imported import PATH_PATTERN, PATH_WORDS
from pipeline_processing.steps.step import Batch, Step, StepContext
from pipeline_processing.steps.user_function import Raised, UserFunction
from pipeline_processing.user_code import NoException, described

_Path = Annotated[str, StringConstraints(pattern=PATH_PATTERN), PATH_WORDS]


class PythonOptions(Part):
    """
    A function, the columns that it reads and those that it adds. It gets rows with the columns of `reads` only, may
    change their values, and returns rows with these columns and those of `adds`. All other columns stay as they are.

    With `takes: columns`, it gets and returns lists of values by column instead: all of `adds`, and those of `reads`
    that it changes.
    """

    function: _Path = Field(
        description="`module:function`, list of rows → list of rows, never more than it got; with `takes: columns`, "
        "lists of values by column → the same."
    )
    takes: Literal["rows", "columns"] = Field("rows", description="What the function gets and returns.")
    reads: tuple[str, ...] = Field(min_length=1, description="The columns that the function gets and may change.")
    adds: dict[str, Kind] = Field(
        {}, description="New columns and their types; of a column of `reads`, the type that it gets."
    )


class DictsOptions(Part):
    """A function that gets rows as plain dicts, in which all values are converted beforehand."""

    function: _Path = Field(description="`module:function`, list of rows → list of rows, never more than it got.")
    takes: Literal["dicts"] = Field(description="What the function gets and returns.")


class Python(Step):
    """
    Calls `module:function` with each batch, and takes the rows that it returns (see `UserFunction`).

    `options` are the path, alone or with `takes: dicts`, or a declaration of the columns that it reads and adds.

    The function gets natural Python values (Decimal, datetime, dict, …). It may return fewer rows; those left out count
    as filtered. If it raises for a batch and rows may be rejected, it is called again with each row separately, as
    originally passed, and the rows for which it raises are rejected with the exception's message as the reason.
    """

    user_code = True

    def __init__(self, options: str | DictsOptions | PythonOptions, context: StepContext) -> None:
        path = options if isinstance(options, str) else options.function
        self.name = f"python: {path}"
        self.filtered = 0
        self._dataset = context.dataset
        self._row_errors = context.row_errors
        self._handover: Handover
        if isinstance(options, PythonOptions):
            self._declared = DeclaredColumns(options.reads, options.adds, context, step=self.name)
            self._handover = self._declared
            self.touches = frozenset((*options.reads, *options.adds))
        else:
            self._handover = AllColumns(context, dicts=isinstance(options, DictsOptions))
        self.columns = self._handover.columns
        self.foreign = not self._handover.joins
        self._function = UserFunction(path, step=self.name, dataset=context.dataset)

    async def __aenter__(self) -> Self:
        await self._function.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._function.__aexit__(*error)

    async def __call__(self, batch: Batch) -> Batch:
        given = self._handover.given(batch.rows)
        try:
            returned = await self._function(list(given.rows))
        except PipelineError:
            raise  # the function used the service's errors on purpose
        except Exception as error:
            return await self._row_by_row(batch, error)
        if type(returned) is list and are_same(given.rows, returned):  # the usual case
            return self._left(batch, given, range(len(returned)), returned, {})
        left = self._checked(returned, batch, got=len(batch.rows))
        self.filtered += len(batch.rows) - len(left)
        return self._left(batch, given, self._places(given.rows, left, batch), left, {})

    async def _row_by_row(self, batch: Batch, error: Exception) -> Batch:
        """Call the function with single rows after an error. Raises StepFailed if no rows may be rejected."""
        given = self._handover.given(batch.rows)
        outcomes = await self._one_by_one(batch, [[row] for row in given.rows], error)
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

    async def _one_by_one(self, batch: Batch, rows: Sequence[Any], error: Exception) -> Sequence[Any]:
        if not self._row_errors.tolerant or isinstance(error, NoException):
            raise self._raised(batch, error) from error
        if len(rows) == 1:
            return [Raised(error)]
        try:
            return await self._function.one_by_one(rows)
        except NoException as ending:
            raise self._raised(batch, ending) from ending

    def _left(
        self, batch: Batch, given: Given, places: Sequence[int] | None, returned: Rows, faults: Mapping[int, str]
    ) -> Batch:
        """
        Return the rows that leave the step, after rejecting others. The function returned `returned` for the rows at
        `places` (None if that is unknown), and raised for those in `faults`.
        """
        everywhere = places == range(len(batch.rows))
        try:
            rows = batch.rows if everywhere else [batch.rows[place] for place in places or ()]
            rows, wrong = self._handover.taken(rows, given.at(places), returned)
        except WrongRows as error:
            raise self._failed(batch, str(error)) from None
        if places is None:
            return Batch(rows, None, batch.span, batch.records)
        if wrong or faults:
            faults = {**faults, **{places[at]: reason for at, reason in wrong.items()}}
            self._row_errors.reject(batch, faults, step=self.name)
            rows = [row for at, row in enumerate(rows) if at not in wrong]
            places = [place for at, place in enumerate(places) if at not in wrong]
        elif everywhere:
            return batch.changed(rows)
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


def _form(options: Any) -> str:
    if isinstance(options, DictsOptions) or (isinstance(options, Mapping) and options.get("takes") == "dicts"):
        return "dicts"
    return "declaration" if isinstance(options, Mapping | PythonOptions) else "path"


class PythonColumns(Python):
    """
    Calls `module:function` with the values of each column instead of rows: a dict of name → list. It returns such a
    dict, with lists of the same length. So it can't drop rows. Everything else is as for rows.
    """

    _declared: DeclaredColumns

    async def __call__(self, batch: Batch) -> Batch:
        values = self._declared.values(batch.rows)
        try:
            returned = await self._function(dict(zip(self._declared.reads, map(list, values), strict=True)))
        except PipelineError:
            raise
        except Exception as error:
            return await self._row_by_row(batch, error)
        self._check_columns(returned, batch, length=len(batch.rows))
        return self._row_errors.reject(batch, self._declared.take(batch.rows, values, returned), step=self.name)

    async def _row_by_row(self, batch: Batch, error: Exception) -> Batch:
        reads, values = self._declared.reads, self._declared.values(batch.rows)
        single = [{name: [value] for name, value in zip(reads, row, strict=True)} for row in zip(*values, strict=True)]
        faults: dict[int, str] = {}
        for place, outcome in enumerate(await self._one_by_one(batch, single, error)):
            if isinstance(outcome, Raised):
                faults[place] = described(outcome.error)
                continue
            self._check_columns(outcome, batch, length=1)
            wrong = self._declared.take([batch.rows[place]], [[column[place]] for column in values], outcome)
            if wrong:
                faults[place] = wrong[0]
        return self._row_errors.reject(batch, faults, step=self.name)

    def _check_columns(self, returned: Any, batch: Batch, *, length: int) -> None:
        if not isinstance(returned, dict):
            raise self._failed(
                batch,
                f"returned {type(returned).__name__}, not columns. Return a dict of column name → list of values.",
            )
        if fault := self._declared.fault_of_columns(returned):
            raise self._failed(batch, fault)
        for name, values in returned.items():
            if not isinstance(values, list):
                raise self._failed(
                    batch, f"returned a {type(values).__name__} as {name!r}. Return a list of its values."
                )
            if len(values) != length:
                raise self._failed(
                    batch,
                    f"got {length:,} rows and returned {len(values):,} values of {name!r}. Return one for every row; "
                    "to drop rows, add a `filter` behind it.",
                )


def _built(options: str | DictsOptions | PythonOptions, context: StepContext) -> Python:
    by_columns = isinstance(options, PythonOptions) and options.takes == "columns"
    return (PythonColumns if by_columns else Python)(options, context)


PLUGIN = Plugin(
    options=Annotated[
        Annotated[_Path, Tag("path")]
        | Annotated[DictsOptions, Tag("dicts")]
        | Annotated[PythonOptions, Tag("declaration")],
        Discriminator(_form),
    ],
    build=_built,
    description="Call your own code: `module:function`, list of rows → list of rows, never more than it got.",
)
