"""A job's destinations, and the identity of the job config that a run uses."""

import hashlib
from collections.abc import Sequence

import orjson

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.entries import DestinationEntry
from pipeline_processing.settings.settings import Settings

_DIGITS = 32


def destination_entries(settings: Settings, config: AgencyJobConfig | None) -> Sequence[DestinationEntry]:
    """Return the job config's destinations, or the settings' one. Raises SettingsError if there is none."""
    if config is not None and config.destinations:
        return config.destinations
    return (DestinationEntry.model_validate(settings.require_destination().entry),)


def config_id(config: AgencyJobConfig, destinations: Sequence[DestinationEntry]) -> str:
    """
    Return the identity of a validated job config with these destinations: the first 32 hex digits of a SHA-256.

    Comments, key order and explicit defaults don't change it; the order of datasets and steps does. It doesn't cover
    code that the job config only names (`python: module:function`, plugins), nor the values of secrets.
    """
    resolved = config.model_copy(update={"destinations": tuple(destinations)})
    content = orjson.dumps(resolved.model_dump(mode="json", exclude_defaults=True), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()[:_DIGITS]
