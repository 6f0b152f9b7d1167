"""What the story does with the service: runs, all in this process, and looks at the objects and rows they leave."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from opentelemetry.trace import Tracer

from pipeline_processing import app
from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.cli.progress import OnRunProgress, shown_progress
from pipeline_processing.locations import S3Location, parse_location
from pipeline_processing.logs import bound_run
from pipeline_processing.model import JobRequest, Run, RunProgress
from pipeline_processing.settings import Settings
from pipeline_processing.telemetry import trace_ids


class StoredObject(NamedTuple):
    """What an object holds, and its metadata."""

    body: bytes
    metadata: Mapping[str, str]


class Exports:
    """Runs of the demo's job. `rows_seen` are the rows that each run's last progress told of."""

    def __init__(self, *, settings: Settings, config: AgencyJobConfig, tracer: Tracer) -> None:
        self.rows_seen: dict[str, int] = {}
        self._settings = settings
        self._config = config
        self._tracer = tracer

    async def run(self, requests: Sequence[JobRequest]) -> list[Run]:
        """Run them all at once, each under its run id, with progress on stderr; the finished runs, in their order."""
        with shown_progress() as show:

            def on_progress(progress: RunProgress) -> None:
                self.rows_seen[progress.run_id] = progress.rows_read
                show(progress)

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._run(request, on_progress)) for request in requests]
        return [task.result() for task in tasks]

    async def _run(self, request: JobRequest, on_progress: OnRunProgress) -> Run:
        run_id, agency_id = request.run_id, request.agency_id
        assert run_id is not None  # the demo names every run
        with self._tracer.start_as_current_span("run") as span:
            span.set_attributes({"run_id": run_id, "agency_id": agency_id})
            trace_id, span_id = trace_ids(span)
            with bound_run(run_id=run_id, agency_id=agency_id, trace_id=trace_id):
                async with app.run_now(
                    self._settings, self._config, tracer=self._tracer, on_progress=on_progress
                ) as runner:
                    return await runner.run(request, run_id=run_id, trace_id=trace_id, span_id=span_id)

    async def history(self) -> list[Run]:
        """All runs that the history has, newest first."""
        async with app.history(self._settings) as runs:
            return await runs.history()

    async def objects(self, urls: Sequence[str]) -> list[StoredObject]:
        """Objects as they are in S3."""
        found = []
        async with app.s3_client(self._settings) as client:
            for where in map(_located, urls):
                body = await client.get_object(bucket=where.bucket, key=where.prefix)
                head = await client.head_object(bucket=where.bucket, key=where.prefix)
                found.append(StoredObject(body, head.metadata))
        return found

    async def existing(self, keys: Sequence[str]) -> list[str]:
        """Which of these keys, relative to the destination, are there."""
        async with app.destination(self._settings, self._config, runs=1) as where:
            return [key for key in keys if await where.exists(key)]


def _located(url: str) -> S3Location:
    location = parse_location(url)
    assert isinstance(location, S3Location)  # the demo has no other destination
    return location
