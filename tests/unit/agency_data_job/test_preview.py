"""The first rows after the steps."""

from typing import Any

import pytest

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.preview import Preview, previews
from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.errors import StepFailed
from pipeline_processing.model import JobRequest
from tests.unit.in_memory import Call, MemorySource, NoServices, job

BATCHES = {"a": [[(1, "x"), (2, "y")], [(3, "z"), (4, "x")], [(5, "x")]], "b": [[(9, "x")]]}


class Reads:
    """Counts the batches that are read."""

    def __init__(self) -> None:
        self.batches = 0

    async def __call__(self, method: str, call: Call) -> Any:
        self.batches += method == "batch"
        return await call()


async def shown(config: AgencyJobConfig, rows: int, reads: Reads | None = None) -> list[Preview]:
    """All previews of the job."""
    source = MemorySource(BATCHES, clock=SystemClock(), around=reads or Reads())
    request = JobRequest(agency_id=7)
    return [each async for each in previews(config, request, source=source, services=NoServices(), rows=rows)]


@pytest.mark.parametrize("form", ["ndjson", "csv"])
@pytest.mark.parametrize("steps", [[], [{"add": {"by": "us"}}]])
async def test_rows_are_lines_whatever_the_format_is(form: str, steps: list[Any]) -> None:
    """Of each dataset, in order, and no further is read than needed to tell that there are more."""
    reads = Reads()
    added = b',"by":"us"' if steps else b""

    first, second = await shown(job("a", "b", format=form, compression="gzip", steps=steps), 1, reads)

    assert first.lines == (b'{"id":1,"name":"x"' + added + b"}",)
    assert (first.more, first.counts.name, first.counts.rows_written) == (True, "a", 1)
    assert second.lines == (b'{"id":9,"name":"x"' + added + b"}",)
    assert not second.more
    assert reads.batches == 3  # one of the first, and the second's end


async def test_what_is_left_out_is_counted() -> None:
    """Rows are read until enough are left, or to the end."""
    [only] = await shown(job("a", steps=[{"filter": "name = 'x'"}]), 10)

    assert [line[:7] for line in only.lines] == [b'{"id":1', b'{"id":4', b'{"id":5']
    assert (only.more, only.counts.rows_read, only.counts.rows_filtered) == (False, 5, 2)


async def test_a_row_that_fails_the_run_fails_its_preview() -> None:
    """With the same message."""
    with pytest.raises(StepFailed, match=r"Dataset 'a', step 'cast', row 1: "):
        await shown(job("a", steps=[{"cast": {"name": "integer"}}]), 1)
