"""`--agency-id` of several commands: keys as the job config has them, and integers without one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_processing.cli.context import current_settings, job_config_of

if TYPE_CHECKING:
    from pipeline_processing.agency_data_job.config import AgencyJobConfig
    from pipeline_processing.agency_keys import AgencyId, AgencyKey
    from pipeline_processing.model import JobRequest

_OPTION = "'--agency-id'"
_CANONICAL = re.compile(r"[1-9][0-9]{0,17}")
"""An integer in any case, if integers are keys."""
_RANGE = range(1, 2**63)


def agencies_given(texts: Iterable[str], *, config: Path | None = None) -> Sequence[AgencyId]:
    """
    Return the keys that the texts of the option mean, in requests that `for_config` completes.

    Raises BadParameter if one isn't a key. Reads the job config only if there is one that isn't an integer.
    """
    return [int(text) if _CANONICAL.fullmatch(text) else _key_of(text, _kind(config)) for text in texts]


def for_config(requests: Sequence[JobRequest], config: AgencyJobConfig | None) -> list[JobRequest]:
    """Return requests of `agencies_given` with keys as the job config has them."""
    from pipeline_processing.agency_keys import AgencyKey

    if config is None or config.agency_key is AgencyKey.INTEGER:
        return list(requests)
    return [each.model_copy(update={"agency_id": _key_of(str(each.agency_id), config.agency_key)}) for each in requests]


def wanted_agency(text: str) -> AgencyId:
    """
    Return the key of an agency whose runs are wanted. Raises BadParameter if no agency can have it.

    Without a job config, any key: the history may hold runs of other installations.
    """
    from pipeline_processing.agency_keys import AgencyKey

    if _CANONICAL.fullmatch(text):
        return int(text)
    kind = _kind(None)
    try:
        key = _key_of(text, kind)
    except typer.BadParameter:
        if kind is not None:
            raise
        key = _key_of(text, AgencyKey.TEXT)
    if isinstance(key, int) and key not in _RANGE:
        raise typer.BadParameter(f"{key} is not in the range {_RANGE.start}<=x<={_RANGE.stop - 1}.")
    return key


WantedAgency = Annotated[
    # A union would be more exact, but typer takes none.
    str | None,
    typer.Option("--agency-id", parser=wanted_agency, metavar="N", help="Runs of this agency only."),
]


def _kind(config: Path | None) -> AgencyKey | None:
    """Return what the job config's keys are; None without a job config."""
    job_config = job_config_of(current_settings(job_config_file=config))
    return None if job_config is None else job_config.agency_key


def _key_of(text: str, kind: AgencyKey | None) -> AgencyId:
    from pipeline_processing.agency_keys import AgencyKey

    try:
        return int(text) if kind is None or kind is AgencyKey.INTEGER else kind.key_of(text)
    except ValueError as error:
        fault = f"{text!r} must be {error}."
    if kind is None or kind is AgencyKey.INTEGER:
        fault = f"{text!r} is not a valid integer."
    if kind is None:
        fault += " For keys that aren't integers, name the job config, in PIPELINE_JOB_CONFIG_FILE."
    raise typer.BadParameter(fault, param_hint=_OPTION)
