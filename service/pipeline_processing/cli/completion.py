"""
What a shell offers for the values of options, after `pipeline-processing --install-completion`.

Where no settings, no job config or no history can be read within a moment, it offers nothing, and never an error.
"""

from __future__ import annotations

from contextlib import suppress

import typer

from pipeline_processing.cli.context import current_settings, job_config_of

_SECONDS = 2.0
_MOST = 100
"""Run ids that are offered, the newest."""


def jobs() -> list[str]:
    """Offer the job."""
    from pipeline_processing.model import JOB

    return [JOB]


def formats() -> list[str]:
    """Offer the formats."""
    from pipeline_processing.model import FormatName

    return list(FormatName)


def states() -> list[str]:
    """Offer the states of a run."""
    from pipeline_processing.model import RunState

    return list(RunState)


def datasets(ctx: typer.Context) -> list[str]:
    """Offer the datasets of the job config, that of --config if it is given."""
    # Whatever goes wrong, a shell has no place for it.
    with suppress(Exception):
        job_config = job_config_of(current_settings(job_config_file=ctx.params.get("config")))
        return [] if job_config is None else [dataset.name for dataset in job_config.datasets]
    return []


def run_ids(incomplete: str) -> list[str]:
    """Offer the newest runs whose ids begin like this."""
    from pipeline_processing.terminal.event_loop import run_async

    with suppress(Exception):
        return run_async(_run_ids(incomplete))
    return []


async def _run_ids(incomplete: str) -> list[str]:
    import asyncio

    from pipeline_processing.app.history import run_store
    from pipeline_processing.runs.run_filter import RunFilter

    async with asyncio.timeout(_SECONDS), run_store(current_settings()) as runs:
        found = await runs.history.newest(RunFilter(text=incomplete or None), limit=_MOST)
    return [run.run_id for run in found if run.run_id.startswith(incomplete)]
