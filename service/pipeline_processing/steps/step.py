"""
The base class of all steps, including those of plugins, and the context that a step is built with.

A step takes a batch and returns one. It may change rows and drop some, but never add any. It passes rows that it can't
use to `StepContext.row_errors.reject`, and continues with the others.
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
    Rows on their way through the steps, and the source records that they were made from.

    `numbers` are the rows' numbers in the source, from 1, one per row; None after a step has dropped rows without
    saying which. `span` is the first and last row number of the batch as read, and `records` are its records.
    """

    __slots__ = ("numbers", "records", "rows", "size", "span")

    def __init__(self, rows: Rows, numbers: Sequence[int] | None, span: tuple[int, int], records: Records = ()) -> None:
        self.rows = rows
        self.numbers = numbers
        self.span = span
        self.records = records
        self.size = 0
        """Estimated bytes of the rows in memory. The chain sets it after each step."""

    @classmethod
    def read(cls, rows: Rows, *, first: int, records: Records = ()) -> "Batch":
        """Make a batch of rows just read from `records`, where `first` is the number of the first row."""
        last = first + len(rows) - 1
        return cls(rows, range(first, last + 1), (first, last), records)

    def changed(self, rows: Rows) -> "Batch":
        """Return the batch with changed rows, which must have the same number and order."""
        return Batch(rows, self.numbers, self.span, self.records)

    def kept(self, keep: Sequence[Any]) -> "Batch":
        """Return the batch with only the rows for which `keep`, one flag per row, is true."""
        numbers = self.numbers and list(compress(self.numbers, keep))
        return Batch(list(compress(self.rows, keep)), numbers, self.span, self.records)

    def record(self, number: int) -> Sequence[Any]:
        """Return the source record with this number."""
        return self.records[number - self.span[0]]

    def place(self, position: int | None = None) -> str:
        """Describe where a row, or the whole batch, is in the source: `row 17`, `rows 1 to 1,000`."""
        if position is not None and self.numbers is not None:
            return f"row {self.numbers[position]:,}"
        first, last = self.span
        return f"row {first:,}" if first == last else f"rows {first:,} to {last:,}"


class RowErrors(Protocol):
    """Handles rows that a step can't use, as the dataset's `on_row_error` says."""

    tolerant: bool
    """False if one such row fails the run."""

    def reject(self, batch: Batch, faults: Mapping[int, str], *, step: str) -> Batch:
        """
        Return the batch without the rows at these positions. Faults are reasons by position, without values of rows.

        Raises StepFailed if `tolerant` is False, or TooManyRejected.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What a step is built with."""

    dataset: str
    columns: Columns
    """The columns that reach the step."""
    carry: str
    """The form of carried values: "json" or "text" (see `kinds.py`)."""
    arguments: Mapping[str, Any]
    """
    agency_id, run_id, since, until, and the params. For a missing since or until, a postgres dataset gets the text
    -infinity or infinity, others None.
    """
    row_errors: RowErrors
    services: Services
    """For use from `__aenter__` on, never in the constructor: `config check` builds steps without a server."""
    last: bool = False
    """Whether the rows that leave the step are written as they are, at most checked for nulls."""


class Step(ABC):
    """One transform or enrichment, built for the columns that reach it. It opens its resources as a context manager."""

    name: str
    """Its name in messages, e.g. `mask` or `python: shop.steps:normalise`."""
    columns: Columns
    """The columns that leave the step. `__aenter__` may complete them."""
    filtered: int = 0
    """How many rows this step has intentionally dropped so far."""
    foreign: bool = False
    """Whether it may leave values in rows that aren't carried. The format then checks every value."""
    user_code: ClassVar[bool] = False
    """Whether it calls user code, whose rows may be large and whose errors may be anything."""
    touches: frozenset[str] | None = None
    """
    The columns that it reads, changes or removes; None if they may be any. Rows may then have one value for several
    other columns, under the name of the first one.
    """
    masks: Mapping[str, Callable[[Any], Any]] = {}
    """The masked columns: name → function from a carried value (never None) to its masked form."""

    def fold(self, projection: Projection) -> Projection | None:
        """
        Return a projection equivalent to `projection` followed by this step; None, the default, if the step must see
        rows. Called for leading steps only.
        """
        return None

    def read_records(self, places: Mapping[str, int]) -> bool:
        """
        Have the step get batches of records, where columns have these indexes, instead of rows. Return whether it can,
        which a step that changes rows can't. Called like `fold`, and again if the indexes change.
        """
        return False

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
        """Process a batch. Never returns more rows than it gets."""
