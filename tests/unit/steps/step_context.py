"""What a step under test is built with, and the batches that it gets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from pipeline_processing.errors import StepFailed
from pipeline_processing.ports import LookupTable, Row, Services, Upstream
from pipeline_processing.rows.columns import Column, Columns
from pipeline_processing.steps.step import Batch, RowErrors, StepContext


@dataclass
class CollectedErrors:
    """Row errors as (number of the row, reason, step); where they aren't tolerated the first one fails the step."""

    tolerant: bool = True
    rejected: list[tuple[int | None, str, str]] = field(default_factory=list)

    def reject(self, batch: Batch, faults: Mapping[int, str], *, step: str) -> Batch:
        for position, reason in sorted(faults.items()):
            if not self.tolerant:
                raise StepFailed(f"Step {step!r} can't use {batch.place(position)}: {reason}")
            number = batch.numbers[position] if batch.numbers else None
            self.rejected.append((number, reason, step))
        return batch.kept([position not in faults for position in range(len(batch.rows))])


class NoServices:
    """For steps that need nothing of the outside world."""

    def lookup(self, query: str, *, secret: str | None, carry: str) -> LookupTable:
        raise AssertionError("this step asks no database")

    def upstream(self, options: Any) -> Upstream:
        raise AssertionError("this step asks no API")

    def secret(self, name: str) -> SecretStr:
        raise AssertionError("this step has no secret")


def context(
    columns: Columns | Iterable[Column],
    *,
    dataset: str = "records",
    carry: str = "json",
    arguments: Mapping[str, Any] | None = None,
    row_errors: RowErrors | None = None,
    services: Services | None = None,
) -> StepContext:
    """A context; columns given one by one are all that there are."""
    return StepContext(
        dataset=dataset,
        columns=columns if isinstance(columns, Columns) else Columns(tuple(columns)),
        carry=carry,
        arguments={} if arguments is None else arguments,
        row_errors=CollectedErrors() if row_errors is None else row_errors,
        services=NoServices() if services is None else services,  # type: ignore[arg-type]  # it opens nothing
    )


def batch(*rows: Row, first: int = 1) -> Batch:
    """These rows as they come from the source, where `first` is the number of the first one."""
    return Batch.read(list(rows), first=first)
