"""The attempt that the data path works for: names, metadata, and what queries and steps may name."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from pipeline_processing.agency_data_job.config import DatasetConfig
from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.model import DatasetCounts, JobRequest
from pipeline_processing.ports import LastSuccess
from tests.unit.in_memory import job
from tests.unit.virtual_clock import EPOCH

LAST = LastSuccess(run_id="before", covered_until=EPOCH, counts=DatasetCounts(name="records"))


def context(**request: Any) -> RunContext:
    return RunContext(run_id="r", attempt=3, trace_id="ab" * 16, request=JobRequest(agency_id=7, **request))


def dataset(**options: Any) -> DatasetConfig:
    return job("records", **options).datasets[0]


def test_where_its_objects_stand_and_what_they_carry():
    """Below the agency and the run; metadata is text."""
    assert context().prefix == "agency_id=7/run_id=r"
    assert context().metadata == {"run-id": "r", "agency-id": "7", "attempt": "3", "trace-id": "ab" * 16}


def test_arguments():
    """The built-in names and the request's params."""
    until = EPOCH + timedelta(days=1)

    assert context(params={"region": "north", "depth": 2}, until=until).arguments(dataset(), None) == {
        "agency_id": 7,
        "run_id": "r",
        "since": None,
        "until": until,
        "region": "north",
        "depth": 2,
    }


@pytest.mark.parametrize(
    ("options", "last", "asked", "since"),
    [
        ({}, None, None, None),
        ({}, LAST, None, None),
        ({"since": "last_success"}, None, None, None),
        ({"since": "last_success"}, LAST, None, EPOCH),
        ({"since": "last_success", "overlap": "90s"}, LAST, None, EPOCH - timedelta(seconds=90)),
        ({"since": "last_success", "overlap": "0s"}, LAST, None, EPOCH),
        ({"since": "last_success", "overlap": "5m"}, None, None, None),
        ({"since": "last_success", "overlap": "5m"}, LAST, EPOCH - timedelta(days=9), EPOCH - timedelta(days=9)),
    ],
)
def test_since(options: dict[str, Any], last: LastSuccess | None, asked: datetime | None, since: datetime | None):
    """The request's own wins, as it is; else up to where the last success covers, less the overlap, if asked for."""
    assert context(since=asked).arguments(dataset(**options), last)["since"] == since


def test_an_overlap_that_reaches_beyond_all_time():
    """It is everything then, and no bug."""
    assert context().arguments(dataset(since="last_success", overlap="1000000d"), LAST)["since"] is None
