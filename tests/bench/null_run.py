"""One run into the null destination, in its own process. Prints its seconds, rows and peak memory as JSON."""

import json
import resource
import sys
import time

from opentelemetry.sdk.trace import TracerProvider

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.agency_data_job.outlet import Outlet
from pipeline_processing.agency_data_job.processor import AgencyProcessor
from pipeline_processing.app.data_path import sources
from pipeline_processing.destinations.null.destination import NullDestination
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.model import JobRequest
from pipeline_processing.plan import UploadRef
from pipeline_processing.ports import LastSuccess
from pipeline_processing.settings.loader import load_settings
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.terminal.event_loop import run_async


async def seconds_of_a_run(dsn: str, config: AgencyJobConfig) -> tuple[float, int]:
    """Return the wall time from connecting to the sealed artifact, and the rows written."""

    async def no_upload(upload: UploadRef) -> None:
        raise AssertionError

    async def no_success(agency_id: int, dataset: str) -> LastSuccess | None:
        return None

    settings = load_settings({"PIPELINE_SOURCE__DSN": dsn, "PIPELINE_SECRETS__SALT": "bench"}).settings
    started = time.perf_counter()
    run = RunContext(run_id="bench", attempt=1, trace_id="0" * 32, request=JobRequest(agency_id=1))
    async with sources(settings, config, runs=1, mask=Mask()) as (source, services):
        processor = AgencyProcessor(
            run=run,
            source=source,
            services=services,
            outlet=Outlet(
                run=run,
                destinations=Destinations([NullDestination()]),
                on_upload=no_upload,
                mask=Mask(),
                max_row_bytes=16 * 1024 * 1024,
            ),
            last_success=no_success,
            on_progress=lambda counts, *, stage, bytes_written: None,
            tracer=TracerProvider().get_tracer("bench"),
        )
        export = await processor.process_agency(1, config)
    return time.perf_counter() - started, export.datasets[0].counts.rows_written


if __name__ == "__main__":
    seconds, rows = run_async(seconds_of_a_run(sys.argv[1], AgencyJobConfig.model_validate_json(sys.argv[2])))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"seconds": seconds, "rows": rows, "peak_mib": peak}))
