"""Where a job writes to, and which job config a run was exported with."""

from pathlib import Path

import pytest

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.identity import config_id, destination_entries
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


def test_an_identity_outlives_releases():
    """Runs that wait in the history are held to the identity that an earlier release computed."""
    job = AgencyJobConfig.model_validate(
        {
            "datasets": [
                {
                    "name": "records",
                    "source": {"postgres": {"query": "SELECT 1 AS a", "args": ["agency_id"]}},
                    "steps": [
                        {"select": ["a"]},
                        {"drop": ["b"], "timeout": "5s"},
                        {"rename": {"a": "c"}},
                        {"add": {"x": 1, "y": "{run_id}"}},
                        {"cast": {"c": "text"}},
                        {"filter": "c > 1"},
                        {"derive": {"z": "c"}},
                        {"mask": {"columns": ["c"], "using": "redact", "with": "x"}},
                        {"flatten": {"column": "j", "fields": {"a": "text"}}},
                        {"dedupe": {"by": ["c"]}},
                        {"validate": {"json_schema": True}},
                        {"enrich_table": {"query": "SELECT", "on": "c", "key": "k", "add": {"l": "l"}}},
                        {"enrich_http": {"url": "https://x/{values}", "on": "c", "key": "k", "add": {"m": "m"}}},
                        {"python": "a:b"},
                    ],
                },
                {
                    "name": "other",
                    "source": {"http": {"url": "https://x/{agency_id}", "columns": {"id": "integer"}}},
                },
            ],
            "destinations": [
                {"s3": {"bucket": "exports", "tags": {"a": "b"}}},
                {"file": {"path": "/exports"}},
                {"postgres": {"dsn": "warehouse", "schema": "x"}},
            ],
        }
    )

    assert config_id(job, job.destinations or ()) == "c2bd00b27d48b885a7cdafee028a5784"
