"""Which destinations a process writes to."""

from pathlib import Path

import pytest

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.destination_entries import destination_entries
from pipeline_processing.errors import SettingsError
from pipeline_processing.settings.settings import Settings

DATASETS = [{"name": "records", "source": {"postgres": {"query": "SELECT 1 AS a"}}}]


def config(*destinations: object) -> AgencyJobConfig:
    return AgencyJobConfig.model_validate({"datasets": DATASETS, "destinations": destinations or None})


def settings(destination: str | None) -> Settings:
    return Settings.model_validate({} if destination is None else {"destination": destination})


def test_the_job_configs_come_first():
    """They replace the settings' altogether, in their order."""
    entries = destination_entries(
        settings("s3://other"), config({"s3": {"bucket": "exports"}}, {"file": {"path": "/exports"}})
    )

    assert [each.kind for each in entries] == ["s3", "file"]


@pytest.mark.parametrize("job", [None, config()])
def test_else_the_settings(job: AgencyJobConfig | None):
    """A bucket and its prefix, or a folder."""
    (bucket,) = destination_entries(settings("s3://exports/agencies/all"), job)
    assert (bucket.kind, bucket.options.bucket, bucket.options.prefix) == ("s3", "exports", "agencies/all")

    (folder,) = destination_entries(settings("file:///exports"), job)
    assert (folder.kind, folder.options.path) == ("file", Path("/exports"))


@pytest.mark.parametrize("job", [None, config()])
def test_neither(job: AgencyJobConfig | None):
    """There is no place to write to by default."""
    with pytest.raises(SettingsError, match="PIPELINE_DESTINATION"):
        destination_entries(settings(None), job)
