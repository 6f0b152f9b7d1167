"""Which destinations a process writes to: the job config's, or else the settings'."""

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.destination_config import (
    DestinationConfig,
    FileDestinationEntry,
    S3DestinationEntry,
)
from pipeline_processing.options.locations import FileLocation
from pipeline_processing.settings.settings import Settings


def destination_entries(settings: Settings, config: AgencyJobConfig | None) -> tuple[DestinationConfig, ...]:
    """The job config's destinations, or else the settings'. Raises SettingsError if neither names one."""
    if config is not None and config.destinations:
        return config.destinations
    location = settings.require_destination()
    if isinstance(location, FileLocation):
        return (FileDestinationEntry.model_validate({"file": {"path": location.path}}),)
    return (S3DestinationEntry.model_validate({"s3": {"bucket": location.bucket, "prefix": location.prefix}}),)
