"""
The data path of a run: one agency's rows, from the source through the steps to sealed artifacts.

Sealed artifacts are still invisible to readers. `runs/executor.py` decides whether to publish them, and
`runs/publication.py` does it.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from pipeline_processing.agency_data_job.chain import Chain
from pipeline_processing.agency_data_job.config import AgencyJobConfig, DatasetConfig
from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.agency_data_job.outlet import Outlet
from pipeline_processing.agency_data_job.output import DatasetOutput
from pipeline_processing.agency_data_job.tally import Tally
from pipeline_processing.agency_data_job.verification import schema_of, verify, verify_schema
from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.model import DatasetCounts, DatasetSchema
from pipeline_processing.plan import Artifact
from pipeline_processing.ports import LastSuccess, Services, Snapshot, Source
from pipeline_processing.telemetry.spans import child_span


@dataclass(frozen=True, slots=True)
class DatasetExport:
    """A sealed dataset: its counts, its artifacts at all destinations, and the busy seconds of each stage."""

    counts: DatasetCounts
    artifacts: tuple[Artifact, ...]
    seconds: Mapping[str, float]
    schema: DatasetSchema | None = None
    """The columns of its rows; None if they depend on the rows."""
    latest: bool = False
    """Whether `_latest.json` is to point to its manifest."""

    @property
    def facts(self) -> dict[str, int]:
        """What the dataset's span tells."""
        return {
            **self.counts.model_dump(exclude={"name"}),
            "bytes_written": sum(artifact.size for artifact in self.artifacts),
            "artifacts": len(self.artifacts),
        }


@dataclass(frozen=True, slots=True)
class Export:
    """All datasets of a run, sealed and verified."""

    snapshot_at: datetime
    datasets: tuple[DatasetExport, ...]
    leaves_gap: bool = False
    """Whether the request's `since` skips rows that no successful export has covered."""


class OnProgress(Protocol):
    """Called after every batch, with the dataset's counts so far and the bytes handed to uploads."""

    def __call__(self, counts: DatasetCounts, *, stage: str, bytes_written: int) -> None: ...


LastSuccesses = Callable[[AgencyId, str], Awaitable[LastSuccess | None]]
"""Agency id and dataset name → the last successful export."""


class AgencyProcessor:
    """
    Exports one agency's datasets for one attempt of a run.

    Calls `last_success` for datasets that look back, and `on_progress` after every batch of the source.
    """

    def __init__(
        self,
        *,
        run: RunContext,
        source: Source,
        services: Services,
        outlet: Outlet,
        last_success: LastSuccesses,
        on_progress: OnProgress,
    ) -> None:
        self._run = run
        self._source = source
        self._services = services
        self._last_success = last_success
        self._on_progress = on_progress
        self._outlet = outlet
        self.place = {"run_id": run.run_id}
        """The run and its current dataset, for the watchdog."""

    async def process_agency(self, agency_id: AgencyId, config: AgencyJobConfig) -> Export:
        """
        Read, transform and store every dataset of `config`, all in one snapshot of the source.

        Raises a RunError: a DataError or JobConfigError if the failure is permanent, a TransientError if another
        attempt may succeed.
        """
        if agency_id != self._run.request.agency_id:
            raise ValueError(f"this processor's run is for agency {self._run.request.agency_id}, not {agency_id}")
        # Before the snapshot, so that a run which succeeds in between can't cover more than this one.
        last = {each.name: await self._last(each) for each in config.datasets}
        params = config.param_values(self._run.request)
        exports = []
        async with AsyncExitStack() as stack:
            with child_span("snapshot"):
                snapshot = await stack.enter_async_context(
                    self._source.snapshot({each.name: each.source for each in config.datasets})
                )
            for dataset in config.datasets:
                with child_span(f"dataset {dataset.name}", attributes={"agency_id": agency_id}) as span:
                    arguments = self._run.arguments(dataset, last[dataset.name], params=params)
                    export = await self._process_dataset(snapshot, dataset, last[dataset.name], arguments)
                    if span.is_recording():
                        span.set_attributes(export.facts)
                    exports.append(export)
            gap = any(self._leaves_gap(each, last[each.name]) for each in config.datasets)
            return Export(snapshot_at=snapshot.taken_at, datasets=tuple(exports), leaves_gap=gap)

    async def _process_dataset(
        self, snapshot: Snapshot, dataset: DatasetConfig, last: LastSuccess | None, arguments: Mapping[str, Any]
    ) -> DatasetExport:
        self.place["dataset"] = dataset.name
        tally = Tally(dataset.name)
        async with (
            snapshot.records(dataset.name, arguments, carry=dataset.carry) as batches,
            Chain.open(dataset, batches.columns, arguments=arguments, services=self._services, tally=tally) as chain,
            DatasetOutput(
                dataset,
                self._outlet,
                chain.format,
                columns=chain.names,
                known=chain.columns,
                snapshot_at=snapshot.taken_at,
                tally=tally,
            ) as output,
        ):
            schema = schema_of(chain.columns)
            verify_schema(schema, dataset, last)
            chain.ask(batches)
            while (records := await tally.next_of(batches)) is not None:
                for piece in chain.pieces(records):
                    await output.write(await chain(piece))
                    await output.set_aside(chain.rejected())
                    del piece
                self._on_progress(tally.counts, stage=tally.stage, bytes_written=output.bytes_written)
                del records  # frees the memory before the next batch is read
            chain.check_rejected()
            verify(tally.counts, dataset.expect, last)
            artifacts = await output.seal()
        tally.trace()
        return DatasetExport(tally.counts, artifacts, tally.seconds, schema, dataset.latest)

    def _leaves_gap(self, dataset: DatasetConfig, last: LastSuccess | None) -> bool:
        since = self._run.request.since
        if dataset.since is None or since is None:
            return False
        begins = dataset.initial if last is None else last.covered_until
        return not isinstance(begins, datetime) or since > begins

    async def _last(self, dataset: DatasetConfig) -> LastSuccess | None:
        if not dataset.looks_back:
            return None
        return await self._last_success(self._run.request.agency_id, dataset.name)
