"""
The data path of a run: one agency's rows, from the source through the steps to sealed artifacts.

Nothing here is visible to a reader yet: whether and how it becomes so is decided in `executor.py`, and done in
`publication.py`.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from opentelemetry.trace import Tracer

from pipeline_processing.agency_data_job.config import AgencyJobConfig, DatasetConfig
from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.agency_data_job.output import DatasetOutput, Outlet
from pipeline_processing.agency_data_job.quarantine import Quarantine
from pipeline_processing.agency_data_job.sizing import MOST_ROWS, Sizing, parts
from pipeline_processing.agency_data_job.stages import Stages
from pipeline_processing.agency_data_job.verification import checks_of_rows, verify
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.formats.formats import new_format
from pipeline_processing.model import Artifact, DatasetCounts
from pipeline_processing.ports import LastSuccess, Services, Snapshot, Source, UploadStarted
from pipeline_processing.rows.columns import Columns
from pipeline_processing.steps.chain import bound
from pipeline_processing.steps.rejections import Rejections
from pipeline_processing.steps.row_size import largest_of
from pipeline_processing.steps.step import StepContext
from pipeline_processing.telemetry.masking import Mask

_ROWS_FOR_OTHERS_CODE = 256
"""At a time: nobody knows how large the rows are that it returns, until it has returned all of them."""


@dataclass(frozen=True, slots=True)
class DatasetExport:
    """One dataset, sealed: its counts, its artifacts at all destinations, and busy seconds per stage."""

    counts: DatasetCounts
    artifacts: tuple[Artifact, ...]
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Export:
    """All datasets of a run, sealed and verified."""

    snapshot_at: datetime
    datasets: tuple[DatasetExport, ...]
    leaves_gap: bool = False
    """Whether the request's own `since` skips rows that no successful export has covered."""


class OnProgress(Protocol):
    """Told after every batch. Counts are of the dataset so far; bytes are those handed to the upload."""

    def __call__(self, counts: DatasetCounts, *, stage: str, bytes_written: int) -> None: ...


LastSuccesses = Callable[[int, str], Awaitable[LastSuccess | None]]
"""The last successful export of an agency's dataset, by the agency's id and the dataset's name."""


class AgencyProcessor:
    """
    Exports one agency's datasets for one attempt of a run.

    `on_upload` is awaited before an upload's first byte is sent; `max_row_bytes` is the longest encoded row that
    fits into the worker's memory.
    """

    def __init__(
        self,
        *,
        run: RunContext,
        source: Source,
        services: Services,
        destinations: Destinations,
        last_success: LastSuccesses,
        on_upload: UploadStarted,
        on_progress: OnProgress,
        tracer: Tracer,
        mask: Mask,
        max_row_bytes: int,
    ) -> None:
        self._run = run
        self._source = source
        self._services = services
        self._last_success = last_success
        self._on_progress = on_progress
        self._tracer = tracer
        self._mask = mask
        self._outlet = Outlet(
            destinations=destinations,
            prefix=run.prefix,
            metadata=run.metadata,
            on_upload=on_upload,
            max_row_bytes=max_row_bytes,
        )

    async def process_agency(self, agency_id: int, config: AgencyJobConfig) -> Export:
        """
        Read, transform and store every dataset of `config`, all in one snapshot of the source.

        Raises a RunError: a DataError or JobConfigError for good, a TransientError if another attempt may succeed.
        """
        if agency_id != self._run.request.agency_id:
            raise ValueError(f"this processor's run is for agency {self._run.request.agency_id}, not {agency_id}")
        # Asked for before the snapshot is taken: a run that succeeds in between covers no more than this one will.
        last = {each.name: await self._last(each) for each in config.datasets}
        params = config.param_values(self._run.request)
        exports = []
        async with self._source.snapshot({each.name: each.source for each in config.datasets}) as snapshot:
            for dataset in config.datasets:
                with self._tracer.start_as_current_span(f"dataset {dataset.name}") as span:
                    span.set_attribute("agency_id", agency_id)
                    arguments = self._run.arguments(dataset, last[dataset.name], params=params)
                    exports.append(await self._process_dataset(snapshot, dataset, last[dataset.name], arguments))
            gap = any(self._leaves_gap(each, last[each.name]) for each in config.datasets)
            return Export(snapshot_at=snapshot.taken_at, datasets=tuple(exports), leaves_gap=gap)

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

    async def _process_dataset(
        self, snapshot: Snapshot, dataset: DatasetConfig, last: LastSuccess | None, arguments: Mapping[str, Any]
    ) -> DatasetExport:
        stages, read, carry = Stages(), 0, dataset.carry
        rejections = Rejections(
            dataset=dataset.name, on_row_error=dataset.on_row_error, max_rejected=dataset.max_rejected
        )

        def context(columns: Columns) -> StepContext:
            return StepContext(
                dataset=dataset.name,
                columns=columns,
                carry=carry,
                arguments=arguments,
                row_errors=rejections,
                services=self._services,
            )

        async with (
            snapshot.rows(dataset.name, arguments, carry=carry) as batches,
            bound(
                dataset.steps, context, batches.columns, dataset=dataset.name, checks=checks_of_rows(dataset.expect)
            ) as steps,
        ):
            rows_format = new_format(dataset.format, fixed=steps.carried, csv=dataset.csv)
            rows_format.begin(steps.header)
            batches.make_rows = steps.rows if steps.touches_rows else rows_format.row_maker(steps.projection)
            columns = steps.columns.names if steps.carried else None
            sizing = Sizing(most_rows=_ROWS_FOR_OTHERS_CODE if steps.foreign else MOST_ROWS)

            def counts() -> DatasetCounts:
                return DatasetCounts(
                    name=dataset.name,
                    rows_read=read,
                    rows_written=rows_format.rows,
                    rows_filtered=steps.filtered,
                    rows_rejected=rejections.rejected,
                )

            async with (
                DatasetOutput(
                    dataset,
                    self._outlet,
                    rows_format,
                    columns=columns,
                    snapshot_at=snapshot.taken_at,
                    stages=stages,
                ) as output,
                Quarantine(dataset.name, self._outlet, mask=self._mask) as quarantine,
            ):

                async def process(batch: list[Any]) -> None:
                    for piece in sizing.pieces(batch, largest_of if steps.touches_rows else None):
                        left, made = piece, 0
                        if steps.touches_rows:
                            with stages.timed("steps"):
                                left = await steps(piece)
                            made = steps.size
                            faults = [(each, steps.original(each.number)) for each in rejections.take()]
                            with stages.timed("upload"):
                                await quarantine.write(faults)
                        written = 0
                        for part in parts(left, made):
                            written += await output.write(part)
                        sizing.learn(len(piece), max(steps.largest, written))

                while True:
                    with stages.timed("source"):
                        batch = await anext(batches, None)
                    if batch is None:
                        break
                    read += len(batch)
                    await process(batch)
                    del batch  # not kept while the next one is waited for
                    steps.forget()
                    self._on_progress(
                        counts(),
                        stage=stages.current or "",
                        bytes_written=output.bytes_written + quarantine.bytes_written,
                    )

                rejections.check(read)
                verify(counts(), dataset.expect, last)
                artifacts = await output.seal()
                with stages.timed("upload"):
                    rejected = await quarantine.seal()

        stages.trace(self._tracer)
        return DatasetExport(
            counts=counts(),
            artifacts=(*artifacts, rejected) if rejected else tuple(artifacts),
            seconds=stages.seconds,
        )
