"""All sources of a job, combined into one. Each dataset is read from the source in its config."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.aio.clock import Clock
from pipeline_processing.ports import Batches, ChecksAgencyKey, Snapshot, Source
from pipeline_processing.rows.columns import Columns


class Sources:
    """
    Sources by kind. `snapshot` takes whole entries of the job config, and passes each source its options.

    The first source's snapshot gives the time. A database must come first, so that everything else is read after it.
    """

    def __init__(self, sources: Mapping[str, Source], *, clock: Clock) -> None:
        """Take the sources in the order in which to open them."""
        self._sources = sources
        self._clock = clock

    @asynccontextmanager
    async def snapshot(self, datasets: Mapping[str, Any]) -> AsyncIterator["_Snapshots"]:
        taken_at = self._clock.now()
        async with AsyncExitStack() as stack:
            by_dataset: dict[str, Snapshot] = {}
            for kind, source in self._sources.items():
                read = {name: entry.options for name, entry in datasets.items() if entry.kind == kind}
                if not read:
                    continue
                snapshot = await stack.enter_async_context(source.snapshot(read))
                if not by_dataset:
                    taken_at = snapshot.taken_at
                by_dataset |= dict.fromkeys(read, snapshot)
            yield _Snapshots(by_dataset, taken_at)


@dataclass(slots=True)
class _Snapshots:
    _by_dataset: Mapping[str, Snapshot]
    taken_at: datetime

    def columns(self, dataset: str, *, carry: str) -> Columns:
        return self._by_dataset[dataset].columns(dataset, carry=carry)

    def check_agency_key(self, dataset: str, key: AgencyKey) -> None:
        """See `ChecksAgencyKey`."""
        snapshot = self._by_dataset[dataset]
        if isinstance(snapshot, ChecksAgencyKey):
            snapshot.check_agency_key(dataset, key)

    def records(
        self, dataset: str, arguments: Mapping[str, Any], *, carry: str
    ) -> AbstractAsyncContextManager[Batches]:
        return self._by_dataset[dataset].records(dataset, arguments, carry=carry)
