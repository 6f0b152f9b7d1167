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


HTTP = {"http": {"url": "https://api.example.com/records", "columns": {"id": "integer"}}}
OVERLAP = {"since": "last_success", "overlap": "5m"}
OTHER = EPOCH - timedelta(days=9)


def test_where_its_objects_stand_and_what_they_carry():
    """Below the agency and the run; metadata is text."""
    assert context().prefix == "agency_id=7/run_id=r"
    assert context().metadata == {"run-id": "r", "agency-id": "7", "attempt": "3", "trace-id": "ab" * 16}


def test_the_longest_metadata_fit_into_an_object():
    """S3 takes 2 KB. A longer requester is left out: part of a name may be another's."""
    labels = {"a": "é" * 255 + "v", "b": ""}
    request = JobRequest(agency_id="é" * 33 + "aa", requested_by="é" * 15, labels=labels)
    run = RunContext(run_id="r" * 128, attempt=2**31 - 1, trace_id="ab" * 16, request=request)

    assert (len(run.metadata["labels"]), len(run.metadata["agency-id"])) == (1536, 200)
    assert len(run.metadata["requested-by"]) == 90
    assert sum(len(name) + len(value) for name, value in run.metadata.items()) <= 2048
    assert "requested-by" not in context(requested_by="a" * 91).metadata


def test_arguments():
    """The built-in names, which win, and the params."""
    until = EPOCH + timedelta(days=1)
    params = {"region": "north", "depth": 2, "agency_id": 8}

    assert context(since=OTHER, until=until).arguments(dataset(), None, params=params) == {
        "agency_id": 7,
        "run_id": "r",
        "since": OTHER,
        "until": until,
        "region": "north",
        "depth": 2,
    }


@pytest.mark.parametrize(
    ("options", "last", "asked", "since"),
    [
        ({}, None, None, "-infinity"),
        ({}, LAST, None, "-infinity"),
        ({"since": "last_success"}, None, None, "-infinity"),
        ({"since": "last_success"}, LAST, None, EPOCH),
        ({"since": "last_success", "overlap": "90s"}, LAST, None, EPOCH - timedelta(seconds=90)),
        ({"since": "last_success", "overlap": "0s"}, LAST, None, EPOCH),
        (OVERLAP, None, None, "-infinity"),
        (OVERLAP, LAST, OTHER, OTHER),
        (OVERLAP, None, OTHER, OTHER),
        (OVERLAP | {"initial": OTHER}, None, None, OTHER),
        (OVERLAP | {"initial": OTHER}, LAST, None, EPOCH - timedelta(minutes=5)),
        (OVERLAP | {"initial": None}, None, None, None),
        (OVERLAP | {"initial": None}, LAST, None, EPOCH - timedelta(minutes=5)),
        ({"initial": OTHER}, None, None, OTHER),
        ({"since": "last_success", "overlap": "1000000d"}, LAST, None, "-infinity"),  # beyond the year 1
        ({"since": "last_success", "overlap": "1000000d", "initial": None}, LAST, None, "-infinity"),
        # An API can't be sent an infinity: null leaves the parameter out.
        ({"source": HTTP, "since": "last_success"}, None, None, None),
        ({"source": HTTP, "since": "last_success"}, LAST, None, EPOCH),
        ({"source": HTTP, "since": "last_success", "initial": OTHER}, None, None, OTHER),
    ],
)
def test_since(options: dict[str, Any], last: LastSuccess | None, asked: datetime | None, since: datetime | str | None):
    """The request's own wins; else up to where the last success covers, less the overlap; else `initial`."""
    assert context(since=asked).arguments(dataset(**options), last, params={})["since"] == since


def test_no_end():
    """Compared with null, no row would be early enough; an API has no word for it."""
    assert context().arguments(dataset(), None, params={})["until"] == "infinity"
    assert context().arguments(dataset(source=HTTP), None, params={})["until"] is None
