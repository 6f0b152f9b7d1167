"""What commands share: settings, job config, logs, traces, and the mask for everything they print."""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.terminal.notes import is_quiet, set_quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pipeline_processing.agency_data_job.config import AgencyJobConfig
    from pipeline_processing.errors import PipelineError, SettingsError
    from pipeline_processing.settings.settings import Settings
    from pipeline_processing.telemetry.metering import Metering
    from pipeline_processing.telemetry.tracing import Telemetry

_mask: ContextVar[Mask] = ContextVar("mask")
_logs: ContextVar[dict[str, Any]] = ContextVar("logs")
"""The user's choices for `configure_logs`."""


def new_mask() -> Mask:
    """Create the mask for the command that starts now, which isn't quiet and logs by default."""
    mask = Mask()
    _mask.set(mask)
    _logs.set({})
    set_quiet(False)
    return mask


def override_logs(**choices: Any) -> None:
    """Log with these arguments of `configure_logs`, whatever the command's own defaults are."""
    _logs.set(_logs.get({}) | choices)


def current_mask() -> Mask:
    """Return the running command's mask. Like typer's context, it is for the functions of commands only."""
    return _mask.get()


def print_errors(errors: Iterable[PipelineError]) -> int:
    """Print each message once, masked. Return the exit code of the gravest error, 0 if there is none."""
    errors = list(errors)
    for message in dict.fromkeys(map(str, errors)):
        typer.echo(f"Error: {current_mask().text(message)}", err=True)
    return max((error.exit_code for error in errors), default=0)


def log_to_stderr(*, level: str | None = None) -> None:
    """
    Log to stderr: text from `warning` on at a terminal, else JSON from `info` on. `level` overrides both levels.

    The user's options have the last word.
    """
    from pipeline_processing.telemetry.logs import configure_logs

    on_terminal = sys.stderr.isatty()
    if is_quiet():
        level = "error"
    choices: dict[str, Any] = {"json": not on_terminal, "level": level or ("warning" if on_terminal else "info")}
    choices |= _logs.get({})
    configure_logs(**choices, mask=current_mask())


def traced() -> Telemetry:
    """Set up tracing from the OTEL_* variables, for use in a `with` block."""
    from pipeline_processing.telemetry.tracing import configure_telemetry

    return configure_telemetry(os.environ, mask=current_mask())


def metered(*, scraped: bool = False) -> Metering:
    """Set up metrics from the OTEL_* variables, for use in a `with` block; and for `/metrics` if `scraped`."""
    from pipeline_processing.telemetry.metering import configure_metrics

    return configure_metrics(os.environ, mask=current_mask(), scraped=scraped)


def current_settings(*, job_config_file: Path | None = None, concurrency: int | None = None) -> Settings:
    """Load the settings of this process; the arguments override them. Raises InvalidSettings."""
    from pipeline_processing.settings.loader import load_settings

    overrides = {"PIPELINE_JOB_CONFIG_FILE": job_config_file, "PIPELINE_WORKER__CONCURRENCY": concurrency}
    return load_settings(os.environ, overrides=overrides, mask=current_mask()).settings


def job_config_of(settings: Settings) -> AgencyJobConfig | None:
    """Load the job config if the settings name one. Raises InvalidJobConfig."""
    from pipeline_processing.agency_data_job.loading import load_job_config

    return load_job_config(settings.job_config_file) if settings.job_config_file else None


def settings_to_run(
    *, config: Path | None, concurrency: int | None = None, dry: bool = False
) -> tuple[Settings, AgencyJobConfig]:
    """Load settings and job config. Raises SettingsError if one that a run needs is missing."""
    from pipeline_processing.errors import SettingsError

    settings = current_settings(job_config_file=config, concurrency=concurrency)
    job_config = job_config_of(settings)
    missing = missing_settings(settings, job_config, dry=dry)
    if missing or job_config is None:
        raise SettingsError("\n".join(map(str, missing)))
    return settings, job_config


def missing_settings(
    settings: Settings, job_config: AgencyJobConfig | None, *, dry: bool = False
) -> list[SettingsError]:
    """Return an error for each missing setting that a run needs."""
    from pipeline_processing.errors import SettingsError

    needed: list[Callable[[], object]] = [settings.require_job_config_file]
    if job_config is None or job_config.needs_source_database:
        needed.insert(0, settings.require_source_dsn)
    elif not dry:
        needed.append(settings.require_history_dsn)  # there is no source database to fall back on
    if job_config is not None and job_config.destinations is None and not dry:
        needed.append(settings.require_destination)
    errors: list[SettingsError] = []
    for require in needed:
        try:
            require()
        except SettingsError as error:
            errors.append(error)
    return errors
