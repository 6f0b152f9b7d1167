"""Build `run --dry-run`. Part of the composition root."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.processor import LastSuccesses
from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.aio.clock import HistoryClock, SystemClock
from pipeline_processing.app.data_path import dry_path
from pipeline_processing.app.history import run_store
from pipeline_processing.app.one_run import assembled, retry_policy_of_run, worker_name
from pipeline_processing.history.memory.reads import MemoryHistory
from pipeline_processing.history.memory.store import memory_run_store
from pipeline_processing.history.memory.table import RunTable
from pipeline_processing.ports import LastSuccess
from pipeline_processing.runs.executor import Reporting
from pipeline_processing.runs.lease import Leases
from pipeline_processing.runs.run_now import LONGEST_WAIT, RunNow
from pipeline_processing.settings.settings import Settings

_DRY_LEASE = timedelta(days=365)
"""Long enough never to end: no other worker could take over a dry run, so its lease isn't needed."""


@asynccontextmanager
async def dry_run(settings: Settings, config: AgencyJobConfig, *, reporting: Reporting) -> AsyncIterator[RunNow]:
    """Open what `run --dry-run` needs: as `run_now`, with a run table in memory and a null destination."""
    async with AsyncExitStack() as stack, dry_path(settings, config, mask=reporting.mask) as path:

        async def last_success(agency_id: AgencyId, dataset: str) -> LastSuccess | None:
            # Open it only if a dataset uses the last success: most dry runs need no history.
            real = await stack.enter_async_context(run_store(settings))
            return await real.history.last_success(agency_id, dataset)

        clock = HistoryClock(SystemClock())
        # A run that would wait longer than the command must fail, because no worker could continue it later.
        retry = replace(retry_policy_of_run(settings), longest_delay=LONGEST_WAIT)
        table = RunTable(clock=clock)
        runs = replace(memory_run_store(table), history=_LookingBack(table, last_success))
        held = Leases(
            queue=runs.queue,
            clock=clock,
            worker=worker_name(),
            config_id=path.config_id,
            length=_DRY_LEASE,
            max_runs_per_agency=1,
        )
        yield assembled(runs, held, path, clock=clock, retry=retry, reporting=reporting)


class _LookingBack(MemoryHistory):
    """The in-memory history of a dry run, with the last successes of the real history."""

    def __init__(self, table: RunTable, last_success: LastSuccesses) -> None:
        super().__init__(table)
        self._last_success = last_success

    async def last_success(self, agency_id: AgencyId, dataset: str) -> LastSuccess | None:
        return await self._last_success(agency_id, dataset)
