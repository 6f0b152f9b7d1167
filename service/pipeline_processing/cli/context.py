"""What a command works with: its settings, and the mask over all that it says."""

from __future__ import annotations

import os
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_processing.telemetry.masking import Mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline_processing.agency_data_job.config import AgencyJobConfig
    from pipeline_processing.errors import SettingsError
    from pipeline_processing.settings.settings import Settings

_mask: ContextVar[Mask] = ContextVar("mask")


def current_settings(*, job_config_file: Path | None = None, concurrency: int | None = None) -> Settings:
    """The settings of this process, with what the command line says instead. Raises InvalidSettings."""
    from pipeline_processing.settings.loader import load_settings

    overrides = {"PIPELINE_JOB_CONFIG_FILE": job_config_file, "PIPELINE_WORKER__CONCURRENCY": concurrency}
    return load_settings(os.environ, overrides=overrides, mask=current_mask()).settings


def new_mask() -> Mask:
    """The mask of the command that begins."""
    mask = Mask()
    _mask.set(mask)
    return mask


def current_mask() -> Mask:
    """The mask of the command that runs. Like typer's own context, it is found by the commands' functions only."""
    return _mask.get()


def missing_settings(
    settings: Settings, job_config: AgencyJobConfig | None, *, dry: bool = False
) -> list[SettingsError]:
    """What no single value is to blame for: settings that a run needs, and that nobody set."""
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
