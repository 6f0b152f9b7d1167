"""
Build what executes runs: what `run`, `serve` and `gc` have in common, and `run` itself. Part of the composition root.
"""

import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.clock import Clock, HistoryClock, SystemClock
from pipeline_processing.aio.side_loop import SideLoop
from pipeline_processing.app.data_path import data_path, destinations
from pipeline_processing.app.history import run_store
from pipeline_processing.runs.executor import DataPath, Executor, Reporting
from pipeline_processing.runs.failures import RetryPolicy
from pipeline_processing.runs.garbage import GarbageCollector
from pipeline_processing.runs.lease import Leases, Renewal
from pipeline_processing.runs.run_now import RunNow
from pipeline_processing.runs.store import RunQueue, RunStore
from pipeline_processing.serving.watchdog import Watchdog
from pipeline_processing.settings.settings import Settings
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.metrics import Metrics

_LEAVE_SECONDS = 10.0
"""How long an interrupted `run` may take to hand its run back and clean up."""


def worker_name() -> str:
    """Return a name for the holder of a lease: host, process id, and a random part, because ids are reused."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


# -- limits --------------------------------------------------------------------------------------


def retry_policy(settings: Settings) -> RetryPolicy:
    """Return a worker's policy. With one attempt, it has no patience either."""
    attempts = settings.worker.max_attempts
    if attempts == 1:
        return RetryPolicy(max_attempts=1, patience=timedelta(), patience_for_servers=timedelta())
    return RetryPolicy(max_attempts=attempts)


def retry_policy_of_run(settings: Settings) -> RetryPolicy:
    """Return the policy of the `run` command, which reports an unreachable server soon: a person is waiting."""
    return replace(retry_policy(settings), patience_for_servers=timedelta())


# -- beside the main event loop -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Aside:
    """A second event loop, and the watchdog that runs there."""

    loop: SideLoop
    watchdog: Watchdog


@asynccontextmanager
async def watched_aside(metrics: Metrics | None = None) -> AsyncIterator[Aside]:
    """Start a second event loop, and in it a watchdog for the caller's loop."""
    async with SideLoop() as loop:
        watchdog = Watchdog(on_delay=None if metrics is None else metrics.delay.record)
        watching = loop.start(watchdog.watch())
        try:
            yield Aside(loop, watchdog)
        finally:
            watching.cancel()


@asynccontextmanager
async def leases(
    settings: Settings,
    aside: Aside,
    *,
    queue: RunQueue,
    clock: HistoryClock,
    config_id: str,
    concurrency: int,
    metrics: Metrics | None = None,
) -> AsyncIterator[Leases]:
    """Open leases that are renewed in the second loop. Each run has a connection, because its row may be locked."""
    async with aside.loop.opened(
        run_store(settings, connections=concurrency, metrics=metrics, pool="leases")
    ) as renewed_in:
        yield Leases(
            queue=queue,
            clock=clock,
            worker=worker_name(),
            config_id=config_id,
            length=timedelta(seconds=settings.worker.lease_seconds),
            max_runs_per_agency=settings.worker.max_runs_per_agency,
            renewal=Renewal(
                renewed_in.queue,
                start=aside.loop.start,
                hangs=lambda: aside.watchdog.hangs,
                metrics=metrics or Metrics(),
            ),
        )


# -- one run -------------------------------------------------------------------------------------


@asynccontextmanager
async def run_now(settings: Settings, config: AgencyJobConfig, *, reporting: Reporting) -> AsyncIterator[RunNow]:
    """Open what the `run` command needs: the whole service for one run, without Kafka."""
    async with AsyncExitStack() as stack:
        clock, retry = HistoryClock(SystemClock()), retry_policy_of_run(settings)
        runs = await stack.enter_async_context(run_store(settings))
        aside = await stack.enter_async_context(watched_aside())
        path = await stack.enter_async_context(data_path(settings, config, runs=1, mask=reporting.mask, clock=clock))
        renewed_aside = leases(
            settings,
            aside,
            queue=runs.queue,
            clock=clock,
            config_id=path.config_id,
            concurrency=1,
            metrics=reporting.metrics,
        )
        held = await stack.enter_async_context(renewed_aside)
        yield assembled(runs, held, path, clock=clock, retry=retry, reporting=reporting)


def assembled(
    runs: RunStore, leases: Leases, path: DataPath, *, clock: Clock, retry: RetryPolicy, reporting: Reporting
) -> RunNow:
    """Return what executes one run with these parts."""
    executor = Executor(
        runs=runs,
        leases=leases,
        path=path,
        history=Server("the history", clock=clock),
        retry=retry,
        reporting=reporting,
        leave_seconds=_LEAVE_SECONDS,
    )
    return RunNow(runs=runs, executor=executor, clock=clock, retry=retry)


# -- cleaning up ---------------------------------------------------------------------------------


@asynccontextmanager
async def garbage_collector(
    settings: Settings, config: AgencyJobConfig | None, *, mask: Mask, dry_run: bool = False
) -> AsyncIterator[GarbageCollector]:
    """Open what the `gc` command needs. It uses only the destinations of the job config."""
    async with destinations(settings, config, runs=1, mask=mask) as where, run_store(settings) as runs:
        yield GarbageCollector(leftovers=runs.leftovers, history=runs.history, destinations=where, dry_run=dry_run)
