"""
The data path of a run: one agency's rows, from the source through the steps to sealed artifacts.

Nothing here is visible to a reader yet: whether and how it becomes so is decided in `executor.py`, and done in
`publication.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from opentelemetry.trace import Tracer

from pipeline_processing.agency_data_job.config import AgencyJobConfig, DatasetConfig
from pipeline_processing.agency_data_job.stages import Stages
from pipeline_processing.agency_data_job.verification import verify
from pipeline_processing.errors import RowTooLarge
from pipeline_processing.formats.compression import compressor
from pipeline_processing.formats.formats import CARRY, new_format
from pipeline_processing.model import Artifact, DatasetCounts, JobRequest
from pipeline_processing.ports import Destination, Format, Snapshot, Source, UploadStarted
from pipeline_processing.steps.chain import bind


@dataclass(frozen=True, slots=True)
class RunContext:
    """The attempt that the processor works for."""

    run_id: str
    attempt: int
    trace_id: str
    request: JobRequest

    @property
    def prefix(self) -> str:
        """Where the run's objects stand below the destination."""
        return f"agency_id={self.request.agency_id}/run_id={self.run_id}"

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of every object."""
        return {
            "run-id": self.run_id,
            "agency-id": str(self.request.agency_id),
            "attempt": str(self.attempt),
            "trace-id": self.trace_id,
        }

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What a query's `args` and an `add` step may name. The built-in names win over params."""
        request = self.request
        built_in = {
            "agency_id": request.agency_id,
            "run_id": self.run_id,
            "since": request.since,
            "until": request.until,
        }
        return {**request.params, **built_in}


@dataclass(frozen=True, slots=True)
class DatasetExport:
    """One dataset, sealed: its counts, its artifact, and busy seconds per stage."""

    counts: DatasetCounts
    artifact: Artifact
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Export:
    """All datasets of a run, sealed and verified."""

    snapshot_at: datetime
    datasets: tuple[DatasetExport, ...]


class OnProgress(Protocol):
    """Told after every batch. Counts are of the dataset so far; bytes are those handed to the upload."""

    def __call__(self, counts: DatasetCounts, *, stage: str, bytes_written: int) -> None: ...


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
        destination: Destination,
        on_upload: UploadStarted,
        on_progress: OnProgress,
        tracer: Tracer,
        max_row_bytes: int,
    ) -> None:
        self._run = run
        self._source = source
        self._destination = destination
        self._on_upload = on_upload
        self._on_progress = on_progress
        self._tracer = tracer
        self._max_row_bytes = max_row_bytes

    async def process_agency(self, agency_id: int, config: AgencyJobConfig) -> Export:
        """
        Read, transform and store every dataset of `config`, all in one snapshot of the source.

        Raises a RunError: a DataError or JobConfigError for good, a TransientError if another attempt may succeed.
        """
        if agency_id != self._run.request.agency_id:
            raise ValueError(f"this processor's run is for agency {self._run.request.agency_id}, not {agency_id}")
        exports = []
        async with self._source.snapshot(config.datasets) as snapshot:
            for dataset in config.datasets:
                with self._tracer.start_as_current_span(f"dataset {dataset.name}") as span:
                    span.set_attribute("agency_id", agency_id)
                    exports.append(await self._process_dataset(snapshot, dataset))
            return Export(snapshot_at=snapshot.taken_at, datasets=tuple(exports))

    async def _process_dataset(self, snapshot: Snapshot, dataset: DatasetConfig) -> DatasetExport:
        stages = Stages()
        read = written = 0
        key = f"{self._run.prefix}/{dataset.name}/part-00000.{dataset.format}{dataset.compression.suffix}"
        arguments, carry = self._run.arguments, CARRY[dataset.format]

        async with (
            snapshot.rows(dataset, arguments, carry=carry) as batches,
            self._destination.open(key, metadata=self._run.metadata, on_started=self._on_upload) as upload,
        ):
            steps = bind(dataset.steps, batches.columns, dataset=dataset.name, arguments=arguments)
            rows_format = new_format(dataset.format, fixed=steps.fixed)
            batches.make_rows = steps.projection.rows if steps.touches_rows else rows_format.row_maker(steps.projection)
            compressed = compressor(dataset.compression)

            def counts() -> DatasetCounts:
                return DatasetCounts(
                    name=dataset.name,
                    rows_read=read,
                    rows_written=rows_format.rows,
                    rows_filtered=steps.filtered,
                )

            async def write(data: bytes) -> None:
                nonlocal written
                written += len(data)
                with stages.timed("upload"):
                    await upload.write(data)

            await write(compressed.compress(rows_format.begin(steps.columns)))
            while True:
                with stages.timed("source"):
                    batch = await anext(batches, None)
                if batch is None:
                    break
                read += len(batch)
                with stages.timed("steps"):
                    batch = await steps(batch)
                if batch:
                    with stages.timed("format"):
                        data = self._encoded(rows_format, batch, dataset)
                        data = compressed.compress(data)
                    await write(data)
                self._on_progress(counts(), stage=stages.current or "", bytes_written=written)
            await write(compressed.compress(rows_format.end()) + compressed.flush())

            verify(counts(), dataset.expect)
            with stages.timed("upload"):
                sealed = await upload.seal()

        stages.trace(self._tracer)
        artifact = Artifact(
            key=key,
            dataset=dataset.name,
            format=dataset.format,
            compression=dataset.compression,
            rows=rows_format.rows,
            size=sealed.size,
            sha256=sealed.sha256,
            staged=sealed.staged,
        )
        return DatasetExport(counts=counts(), artifact=artifact, seconds=stages.seconds)

    def _encoded(self, rows_format: Format, batch: list[Any], dataset: DatasetConfig) -> bytes:
        data = rows_format.encode(batch)
        if len(data) > self._max_row_bytes:
            longest = rows_format.longest_row(data)
            if longest > self._max_row_bytes:
                raise RowTooLarge(dataset=dataset.name, size=longest, limit=self._max_row_bytes)
        return data
