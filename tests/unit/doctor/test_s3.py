"""What the checks of a bucket leave behind."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline_processing.destinations.s3.options import S3DestinationConfig
from pipeline_processing.doctor.s3 import Bucket, doctors_place
from pipeline_processing.errors import AccessDenied


class Kept(Bucket):
    """A bucket from which nothing can be removed."""

    def __init__(self, *, has_written: bool) -> None:
        async def nothing() -> None:
            pass

        client: Any = None
        super().__init__(client, S3DestinationConfig(bucket="exports"), verify=nothing, longest_run=nothing)
        self.has_written = has_written

    async def remove_all(self) -> None:
        raise AccessDenied("not yours")


@pytest.mark.parametrize("has_written", [True, False])
async def test_what_can_not_be_removed_is_told(has_written: bool) -> None:
    """With its place, also if the checks are interrupted. A store that was never written to isn't asked."""
    place = Kept(has_written=has_written)
    with capture_logs() as logs, pytest.raises(KeyError):
        async with doctors_place(place):
            raise KeyError
    assert [each["where"] for each in logs] == [f"s3://exports/{place.prefix}/"] * has_written
