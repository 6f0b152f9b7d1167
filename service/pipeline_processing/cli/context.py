"""What commands work with: settings, job config, logs, traces, and the mask over all that they print."""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pipeline_processing.telemetry.masking import Mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pipeline_processing.agency_data_job.config import AgencyJobConfig
    from pipeline_processing.errors import PipelineError, SettingsError
    from pipeline_processing.settings.settings import Settings
    from pipeline_processing.telemetry.tracing import Telemetry

_mask: ContextVar[Mask] = ContextVar("mask")


def new_mask() -> Mask:
    """The mask of the command that begins."""
    mask = Mask()
    _mask.set(mask)
    return mask


def current_mask() -> Mask:
    """The mask of the running command. As with typer's own context, only the functions of commands should ask."""
    return _mask.get()


def print_errors(errors: Iterable[PipelineError]) -> int:
    """Print each message once, masked. Returns the exit code of the gravest error, 0 without any."""
    errors = list(errors)
    for message in dict.fromkeys(map(str, errors)):
        typer.echo(f"Error: {current_mask().text(message)}", err=True)
    return max((error.exit_code for error in errors), default=0)


def log_to_stderr(*, level: str | None = None) -> None:
    """Send logs to stderr: text for a person, from `warning` on; JSON elsewhere, from `info` on. `level` overrides."""
    from pipeline_processing.telemetry.logs import configure_logs

    on_terminal = sys.stderr.isatty()
    configure_logs(json=not on_terminal, level=level or ("warning" if on_terminal else "info"), mask=current_mask())


def traced() -> Telemetry:
    """Tracing as OTEL_* says, for the length of a `with` block."""
    from pipeline_processing.telemetry.tracing import configure_telemetry

    return configure_telemetry(os.environ, mask=current_mask())


def current_settings(*, job_config_file: Path | None = None, concurrency: int | None = None) -> Settings:
    """The settings of this process; the options override them. Raises InvalidSettings."""
    from pipeline_processing.settings.loader import load_settings

    overrides = {"PIPELINE_JOB_CONFIG_FILE": job_config_file, "PIPELINE_WORKER__CONCURRENCY": concurrency}
    return load_settings(os.environ, overrides=overrides, mask=current_mask()).settings


def job_config_of(settings: Settings) -> AgencyJobConfig | None:
    """The job config, if the settings name one. Raises InvalidJobConfig."""
    from pipeline_processing.agency_data_job.config import load_job_config

    return load_job_config(settings.job_config_file) if settings.job_config_file else None


def settings_to_run(
    *, config: Path | None, concurrency: int | None = None, dry: bool = False
) -> tuple[Settings, AgencyJobConfig]:
    """Settings and job config, with all that a run needs. Raises SettingsError for what is missing."""
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
    """An error for each setting that a run needs, and that nobody set."""
    from pipeline_processing.errors import SettingsError

    needed: list[Callable[[], object]] = [settings.require_job_config_file]
    if job_config is None or job_config.needs_source_database:
        needed.insert(0, settings.require_source_dsn)
    elif not dry:
        needed.append(settings.require_history_dsn)  # else the source's would do
    if job_config is not None and job_config.destinations is None and not dry:
        needed.append(settings.require_destination)
    errors: list[SettingsError] = []
    for require in needed:
        try:
            require()
        except SettingsError as error:
            errors.append(error)
    return errors
