"""
What a step is: the base class of all of them, also of those in other packages, and what one is built with.

A step gets a batch and returns one. It may change rows and drop some, never add any. It hands rows that it can't use to
`StepContext.row_errors.reject`, and goes on with the others.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

from pipeline_processing.ports import Records, Rows, Services
from pipeline_processing.rows.columns import Columns
from pipeline_processing.rows.projection import Projection


class Batch:
    """
    Rows on their way through the steps, and which records of the source they were made of.

    `numbers` are the rows' numbers in the source, from 1, one per row; None once a step has dropped some without saying
    which. `span` is the first and last number of the batch as it was read, and `records` are its records.
    """

    __slots__ = ("numbers", "records", "rows", "size", "span")

    def __init__(self, rows: Rows, numbers: Sequence[int] | None, span: tuple[int, int], records: Records = ()) -> None:
        self.rows = rows
        self.numbers = numbers
        self.span = span
        self.records = records
        self.size = 0
        """About how many bytes the rows take in memory, once a step has seen them. The chain sets it."""

    @classmethod
    def read(cls, rows: Rows, *, first: int, records: Records = ()) -> "Batch":
        """Rows as they were made of `records`, where `first` is the number of the first one."""
        last = first + len(rows) - 1
        return cls(rows, range(first, last + 1), (first, last), records)

    def changed(self, rows: Rows) -> "Batch":
        """The same rows with other values: as many as before, in the same order."""
        return Batch(rows, self.numbers, self.span, self.records)

    def kept(self, keep: Sequence[Any]) -> "Batch":
        """Only the rows for which `keep`, one flag per row, is true."""
        numbers = self.numbers and list(compress(self.numbers, keep))
        return Batch(list(compress(self.rows, keep)), numbers, self.span, self.records)

    def record(self, number: int) -> Sequence[Any]:
        """The record of the source that has this number."""
        return self.records[number - self.span[0]]

    def place(self, position: int | None = None) -> str:
        """Where in the source a row is, or the whole batch: `row 17`, `rows 1 to 1,000`."""
        if position is not None and self.numbers is not None:
            return f"row {self.numbers[position]:,}"
        first, last = self.span
        return f"row {first:,}" if first == last else f"rows {first:,} to {last:,}"


class RowErrors(Protocol):
    """What to do with rows that a step can't use: the dataset's `on_row_error`."""

    tolerant: bool
    """False if the first such row fails the run."""

    def reject(self, batch: Batch, faults: Mapping[int, str], *, step: str) -> Batch:
        """
        The batch without the rows at these positions. Each fault is a reason, without any value of the row.

        Raises StepFailed if such a row fails the run, and TooManyRejected.
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
    agency_id, run_id, since, until, and the params. If the request has no since or until, a postgres dataset gets the
    texts -infinity and infinity instead, others None.
    """
    row_errors: RowErrors
    services: Services
    """For use from `__aenter__` on, never in the constructor: `config check` builds steps without a server."""


class Step(ABC):
    """One transform or enrich, built for the columns that reach it. As a block it opens what it needs."""

    name: str
    """As messages call it, e.g. `mask` or `python: shop.steps:normalise`."""
    columns: Columns
    """What leaves the step. `__aenter__` may complete it."""
    filtered: int = 0
    """Rows that this step has dropped on purpose so far."""
    foreign: ClassVar[bool] = False
    """Whether it may leave values in the rows that aren't carried. The format then looks at each value."""
    masks: Mapping[str, Callable[[Any], Any]] = {}
    """Columns that it masks: name → function from a carried value (never None) to its masked form."""

    def fold(self, projection: Projection) -> Projection | None:
        """
        A projection that makes rows as if the step had been applied to those of `projection`; None, as here, if the
        step has to see rows. Asked of leading steps only.
        """
        return None

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
