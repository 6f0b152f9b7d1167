"""
What a step is: the base class of all of them, those of other packages included, and what one is built with.

A step gets a batch and returns one. It may change rows and drop some, never add any. One that can't use a row says so
with `StepContext.row_errors.reject`, and goes on with the others: what becomes of the row is the dataset's
`on_row_error`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

from pipeline_processing.ports import Rows, Services
from pipeline_processing.rows.columns import Columns


class Batch:
    """
    Rows on their way through the steps, and which rows of the source they come from.

    `numbers` are those rows' numbers, from 1, one for each row; None once a step has dropped some without saying which.
    `span` are the first and last number of the batch as it was read.
    """

    __slots__ = ("numbers", "rows", "span")

    def __init__(self, rows: Rows, numbers: Sequence[int] | None, span: tuple[int, int]) -> None:
        self.rows = rows
        self.numbers = numbers
        self.span = span

    @classmethod
    def read(cls, rows: Rows, *, first: int) -> "Batch":
        """A batch as it comes from the source, where `first` is the number of its first row."""
        last = first + len(rows) - 1
        return cls(rows, range(first, last + 1), (first, last))

    def changed(self, rows: Rows) -> "Batch":
        """The same rows with other values: as many as before, in the same order."""
        return Batch(rows, self.numbers, self.span)

    def kept(self, keep: Sequence[Any]) -> "Batch":
        """Only the rows for which `keep`, one for each row, is true."""
        numbers = self.numbers and list(compress(self.numbers, keep))
        return Batch(list(compress(self.rows, keep)), numbers, self.span)

    def place(self, position: int | None = None) -> str:
        """Where in the source a row is, or the whole batch: `row 17`, `rows 1 to 1,000`."""
        if position is not None and self.numbers is not None:
            return f"row {self.numbers[position]:,}"
        first, last = self.span
        return f"row {first:,}" if first == last else f"rows {first:,} to {last:,}"


class RowErrors(Protocol):
    """What becomes of rows that a step can't use: the dataset's `on_row_error`."""

    tolerant: bool
    """False where the first such row fails the run."""

    def reject(self, batch: Batch, faults: Mapping[int, str], *, step: str) -> Batch:
        """
        The batch without the rows at these positions; each fault says why, and never with the row's own values.

        Raises StepFailed where such a row fails the run, and TooManyRejected.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What a step is built with."""

    dataset: str
    columns: Columns
    """What reaches the step."""
    carry: str
    """The form in which values travel: "json" or "text" (see `kinds.py`)."""
    arguments: Mapping[str, Any]
    """
    agency_id, run_id, since, until, and the params. Without a since or until, a postgres dataset has the texts
    -infinity and infinity there, others None.
    """
    row_errors: RowErrors
    services: Services
    """To be used from `__aenter__` on, never in the constructor: `config check` builds steps without a server."""


class Step(ABC):
    """One transform or enrich, bound to the columns that reach it. What it opens in its block is closed with it."""

    name: str
    """As messages call it, e.g. `mask` or `python: shop.steps:normalise`."""
    columns: Columns
    """What leaves the step. One that finds it out in `__aenter__` has what it knows of it before."""
    filtered: int = 0
    """Rows that this step has dropped on purpose so far."""
    foreign: ClassVar[bool] = False
    """Whether it may leave values of its own in the rows, that aren't carried. They are looked at one by one then."""
    masks: Mapping[str, Callable[[Any], Any]] = {}
    """Columns that it masks: name → carried value (never None) to its masked form."""

    async def __aenter__(self) -> Self:
        """Called before the first row."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Called after the last row, or when the dataset has failed."""
        return

    @abstractmethod
    async def __call__(self, batch: Batch) -> Batch:
        """Rows in, rows out; never more than came in."""
