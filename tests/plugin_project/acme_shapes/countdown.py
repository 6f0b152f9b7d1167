"""Source `acme.countdown`: whole numbers from `first` down to 1."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline_processing.kinds import column_of_kind, form_of
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import Records, Services
from pipeline_processing.rows.columns import Columns, Kind


class CountdownOptions(BaseModel):
    """How far up it begins."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: int = Field(ge=0)


def columns_in(carry: str) -> Columns:
    """The one column."""
    return Columns((column_of_kind("number", Kind.INTEGER, carry, origins=("number",)),))


class Numbers:
    """All of them in one batch."""

    def __init__(self, first: int, carry: str) -> None:
        carried = form_of(Kind.INTEGER, carry).carried
        self.columns = columns_in(carry)
        self._records: Records = [(carried(number),) for number in range(first, 0, -1)]

    def __aiter__(self) -> "Numbers":
        return self

    async def __anext__(self) -> Records:
        if not self._records:
            raise StopAsyncIteration
        records, self._records = self._records, []
        return records


class Snapshot:
    """Numbers don't change, so any time will do."""

    def __init__(self, datasets: Mapping[str, CountdownOptions]) -> None:
        self.taken_at = datetime.now(UTC)
        self._datasets = datasets

    def columns(self, dataset: str, *, carry: str) -> Columns:
        """See `ports.Snapshot`."""
        return columns_in(carry)

    @asynccontextmanager
    async def records(self, dataset: str, arguments: Mapping[str, Any], *, carry: str) -> AsyncIterator[Numbers]:
        """See `ports.Snapshot`."""
        yield Numbers(self._datasets[dataset].first, carry)


class Countdown:
    """See `ports.Source`."""

    def __init__(self, *, context: Services) -> None:
        pass

    @asynccontextmanager
    async def snapshot(self, datasets: Mapping[str, CountdownOptions]) -> AsyncIterator[Snapshot]:
        """See `ports.Source`."""
        yield Snapshot(datasets)


PLUGIN = Plugin(options=CountdownOptions, build=Countdown)
