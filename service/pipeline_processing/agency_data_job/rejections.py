"""Handles rows that a step can't use: applies `on_row_error` and `max_rejected`, and masks the rows for quarantine."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipeline_processing.agency_data_job.tally import Tally
from pipeline_processing.errors import StepFailed, TooManyRejected
from pipeline_processing.options.limits import Percent
from pipeline_processing.rows.columns import Columns, unknown
from pipeline_processing.steps.step import Batch, Step

Masking = Callable[[Any], Any]
"""A carried value (never None) → its masked form."""
REDACTED = "***"


class OnRowError(StrEnum):
    """What a row that a step can't use does."""

    FAIL = "fail"
    SKIP = "skip"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class Rejected:
    """One row that a step couldn't use."""

    number: int
    """The row's number in the source, from 1."""
    step: str
    reason: str
    record: Sequence[Any]
    """The values that the source returned."""


class Rejections:
    """The `RowErrors` of one dataset. Counts rejected rows, and keeps those of the current batch for the quarantine."""

    def __init__(self, tally: Tally, on_row_error: OnRowError, max_rejected: int | Percent | None) -> None:
        self.tolerant = on_row_error is not OnRowError.FAIL
        self._tally = tally
        self.keeps_rows = on_row_error is OnRowError.QUARANTINE
        """Whether rejected rows are shown as they were read."""
        self._max = max_rejected
        self._waiting: list[Rejected] = []

    def reject(self, batch: Batch, faults: Mapping[int, str], *, step: str) -> Batch:
        if not faults:
            return batch
        first = min(faults)
        if not self.tolerant:
            more = f" ({len(faults) - 1:,} more rows of this batch fail as well)" if len(faults) > 1 else ""
            raise StepFailed(
                f"{faults[first]}{more}. Correct the data or the step, or set `on_row_error` to skip or quarantine; "
                "then replay the run."
            ).at(f"Dataset {self._tally.dataset!r}, step {step!r}, {batch.place(first)}")
        self._tally.rejected += len(faults)
        if isinstance(self._max, int) and self._tally.rejected > self._max:
            raise self._too_many(f"{self._max:,}", f"{faults[first]} (step {step!r}, {batch.place(first)})")
        if self.keeps_rows:
            self._waiting += self._rejected(batch, faults, step)
        return batch.kept([position not in faults for position in range(len(batch.rows))])

    def take(self) -> list[Rejected]:
        """Return the rows rejected since the last call, if the dataset quarantines them."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def check(self) -> None:
        """Raises TooManyRejected if too large a share of the rows was rejected. Call it after the last row."""
        read = self._tally.read
        if isinstance(self._max, Percent) and self._tally.rejected > self._max.of(read):
            raise self._too_many(f"{self._max} of {read:,}", None)

    def _rejected(self, batch: Batch, faults: Mapping[int, str], step: str) -> Iterable[Rejected]:
        if batch.numbers is None:  # built-in steps always set it
            raise StepFailed(
                "the source rows rejected here are unknown, because an earlier step of another package dropped rows "
                "without saying which. Correct that step, or set `on_row_error: skip`."
            ).at(f"Dataset {self._tally.dataset!r}, step {step!r}, {batch.place()}")
        for position in sorted(faults):
            number = batch.numbers[position]
            yield Rejected(number, step, faults[position], batch.record(number))

    def _too_many(self, limit: str, example: str | None) -> TooManyRejected:
        return TooManyRejected(
            f"{self._tally.rejected:,} rows were rejected, more than `max_rejected` allows "
            f"({limit}){f', the last for: {example}' if example else ''}. Nothing was published. Correct the data or "
            "the steps, or allow more; a dry run with `on_row_error: skip` and no `max_rejected` counts them all."
        ).at(f"Dataset {self._tally.dataset!r}")


def masked_at_source(steps: Iterable[tuple[Step, Columns]], source: Columns) -> Mapping[str, Masking]:
    """
    Return the masking of each source column that some step masks, for rejected rows. Each step comes with the columns
    that leave it.

    A column that is masked once and otherwise unchanged, apart from its name, is masked the same way. A column that is
    masked twice, or from which a masked column is computed, is redacted. User code hides the origin of a column: it is
    taken to be the source's column of the same name or, if there is none, every source column.
    """
    masks: dict[str, Masking] = {}
    known = frozenset(source.names)
    reaching = source
    for step, leaving in steps:
        for name, mask in step.masks.items():
            column = reaching.find(name) or unknown(name)
            origins, unchanged = column.origins, column.unchanged
            if not origins:
                origins, unchanged = known & {name}, True
            if not origins <= known:
                origins, unchanged = known, False
            for origin in origins:
                masks[origin] = mask if unchanged and origin not in masks else lambda _: REDACTED
        reaching = leaving
    return masks
