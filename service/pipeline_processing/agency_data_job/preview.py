"""The first rows of each dataset as they leave the steps, for a person who writes a job config."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline_processing.agency_data_job.chain import Chain
from pipeline_processing.agency_data_job.config import AgencyJobConfig, DatasetConfig
from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.agency_data_job.tally import Tally
from pipeline_processing.model import Compression, DatasetCounts, FormatName, JobRequest
from pipeline_processing.ports import Services, Snapshot, Source
from pipeline_processing.rows.lines import Lines

_RUN_ID = "preview"


@dataclass(frozen=True, slots=True)
class Preview:
    """The first rows of a dataset, each encoded as a line of NDJSON."""

    lines: tuple[bytes, ...]
    more: bool
    """Whether there are more rows."""
    counts: DatasetCounts
    """Of the rows that were read for it. `rows_written` counts the lines."""


async def previews(
    config: AgencyJobConfig, request: JobRequest, *, source: Source, services: Services, rows: int
) -> AsyncIterator[Preview]:
    """
    Yield up to `rows` rows of each dataset, all read in one snapshot. Raises the errors of a run.

    Reads no further than needed. Nothing looks back: `since: last_success` begins at the dataset's `initial`.
    """
    context = RunContext(run_id=request.run_id or _RUN_ID, attempt=1, trace_id="", request=request)
    params = config.param_values(request)
    async with source.snapshot({each.name: each.source for each in config.datasets}) as snapshot:
        for dataset in config.datasets:
            arguments = context.arguments(dataset, None, params=params)
            yield await _preview(snapshot, dataset, arguments, services=services, rows=rows)


async def _preview(
    snapshot: Snapshot, dataset: DatasetConfig, arguments: Mapping[str, Any], *, services: Services, rows: int
) -> Preview:
    dataset = dataset.model_copy(update={"format": FormatName.NDJSON, "compression": Compression.NONE})
    tally = Tally(dataset.name)
    lines: list[bytes] = []
    async with (
        snapshot.records(dataset.name, arguments, carry=dataset.carry) as batches,
        Chain.open(dataset, batches.columns, arguments=arguments, services=services, tally=tally) as chain,
    ):
        chain.ask(batches)
        while len(lines) <= rows and (records := await tally.next_of(batches)) is not None:
            for piece in chain.pieces(records):
                left = (await chain(piece)).rows
                chain.rejected()  # counted in `tally`; nobody shows them
                if left:
                    encoded = bytes(left) if isinstance(left, Lines) else chain.format.encode(left)
                    lines += encoded.splitlines()
    tally.written = min(len(lines), rows)
    return Preview(tuple(lines[:rows]), len(lines) > rows, tally.counts)
