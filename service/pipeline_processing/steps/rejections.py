"""What becomes of rows that a step can't use: a dataset's `on_row_error` and `max_rejected`."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pipeline_processing.errors import StepFailed, TooManyRejected
from pipeline_processing.options.limits import Percent
from pipeline_processing.steps.step import Batch


class OnRowError(StrEnum):
    """What a row that a step can't use does."""

    FAIL = "fail"
    SKIP = "skip"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class Rejected:
    """One row that a step could not use."""

    number: int
    """Its number in the source, from 1."""
    step: str
    reason: str


class Rejections:
    """The `RowErrors` of one dataset: counts rejected rows, and keeps those of the present batch for the quarantine."""

    def __init__(self, *, dataset: str, on_row_error: OnRowError, max_rejected: int | Percent | None) -> None:
        self.tolerant = on_row_error is not OnRowError.FAIL
        self.rejected = 0
        """Rows rejected so far."""
        self._dataset = dataset
        self._quarantine = on_row_error is OnRowError.QUARANTINE
        self._max = max_rejected
        self._waiting: list[Rejected] = []

    def reject(self, batch: Batch, faults: Mapping[int, str], *, step: str) -> Batch:
        """See `RowErrors`."""
        if not faults:
            return batch
        first = min(faults)
        if not self.tolerant:
            more = f" ({len(faults) - 1:,} more rows of this batch fail as well)" if len(faults) > 1 else ""
            raise StepFailed(
                f"{faults[first]}{more}. Mend the data or the step, or set `on_row_error` to skip or quarantine; "
                "then replay the run."
            ).at(f"Dataset {self._dataset!r}, step {step!r}, {batch.place(first)}")
        self.rejected += len(faults)
        if isinstance(self._max, int) and self.rejected > self._max:
            raise self._too_many(f"{self._max:,}", f"{faults[first]} (step {step!r}, {batch.place(first)})")
        if self._quarantine:
            if batch.numbers is None:  # steps of ours always know which rows they give
                raise StepFailed(
                    "it can't be told which row of the source is rejected here: a step before this one, of another "
                    "package, left rows out without saying which. Mend that step, or set `on_row_error: skip`."
                ).at(f"Dataset {self._dataset!r}, step {step!r}, {batch.place()}")
            self._waiting += [Rejected(batch.numbers[at], step, faults[at]) for at in sorted(faults)]
        return batch.kept([position not in faults for position in range(len(batch.rows))])

    def take(self) -> list[Rejected]:
        """The rows rejected since this was last called, for the quarantine; none if there is none."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def check(self, rows_read: int) -> None:
        """At the end of the dataset: raises TooManyRejected if they are too large a share of the rows read."""
        if isinstance(self._max, Percent) and self.rejected > self._max.of(rows_read):
            raise self._too_many(f"{self._max} of {rows_read:,}", None)

    def _too_many(self, limit: str, example: str | None) -> TooManyRejected:
        return TooManyRejected(
            f"{self.rejected:,} rows were rejected, more than `max_rejected` allows "
            f"({limit}){f', the last for: {example}' if example else ''}. Nothing was published. Mend the data or the "
            "steps, or allow more; a dry run with `on_row_error: skip` and no `max_rejected` counts them all."
        ).at(f"Dataset {self._dataset!r}")
