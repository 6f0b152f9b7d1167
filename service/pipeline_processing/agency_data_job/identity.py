"""Which job config a run was exported with."""

import hashlib
from collections.abc import Sequence

import orjson

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.destination_config import DestinationConfig

_DIGITS = 32


def config_id(config: AgencyJobConfig, destinations: Sequence[DestinationConfig]) -> str:
    """
    The identity of a validated job config that writes to these destinations: 32 hex digits of a SHA-256.

    Comments, the order of keys and written-out defaults don't change it; the order of datasets and steps does. Code
    that the job config only names (`python: module:function`, plugins) is no part of it, nor are the secrets' values.
    """
    resolved = config.model_copy(update={"destinations": tuple(destinations)})
    content = orjson.dumps(resolved.model_dump(mode="json", exclude_defaults=True), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()[:_DIGITS]
