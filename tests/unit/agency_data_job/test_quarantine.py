"""Rejected rows, on their way to an artifact of their own."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.agency_data_job.outlet import Outlet
from pipeline_processing.agency_data_job.quarantine import Quarantine
from pipeline_processing.agency_data_job.rejections import Rejected
from pipeline_processing.destinations.memory.destination import MemoryDestination
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.errors import DestinationUnavailable, RowTooLarge
from pipeline_processing.model import Artifact, InlineContent, JobRequest, UploadRef
from pipeline_processing.telemetry.masking import Mask
from tests.unit.in_memory import Between, InterposedDestination, refused
from tests.unit.memory_tables import MemoryTables

KEY = "agency_id=7/run_id=r/_rejected/records/part-00000.ndjson"
DOWN = DestinationUnavailable("the destination is down")
FaultyRow = tuple[Rejected, dict[str, Any]]


class Place:
    """Tables, and two destinations that hold objects; what one dataset's rejected rows leave there."""

    def __init__(self, *, inline_limit: int = 0, max_row_bytes: int = 10_000) -> None:
        self.primary = MemoryDestination(url="memory://primary", inline_limit=inline_limit)
        self.second = MemoryDestination(url="memory://second", inline_limit=0)
        self.between = Between()
        self.started: list[UploadRef] = []
        primary: Any = InterposedDestination(self.primary, self.between)
        self.outlet = Outlet(
            run=RunContext(run_id="r", attempt=1, trace_id="ab" * 16, request=JobRequest(agency_id=7)),
            destinations=Destinations([MemoryTables(), primary, self.second]),
            on_upload=self._started,
            mask=Mask(),
            max_row_bytes=max_row_bytes,
        )

    async def _started(self, upload: UploadRef) -> None:
        self.started.append(upload)

    async def write(self, *batches: Iterable[FaultyRow]) -> Artifact | None:
        async with Quarantine("records", self.outlet) as quarantine:
            for batch in batches:
                await quarantine.write(batch)
            artifact = await quarantine.seal()
            assert quarantine.bytes_written == (artifact.size if artifact else 0)
        return artifact

    async def lines(self, artifact: Artifact) -> list[Any]:
        """What a reader will see of it."""
        await self.primary.complete(artifact, metadata=self.outlet.run.metadata)
        body, _ = self.primary.objects[artifact.key]
        return [json.loads(line) for line in body.splitlines()]


def faulty(number: int, *, reason: str = "no", **row: Any) -> FaultyRow:
    return Rejected(number, "cast", reason, tuple(row.values())), row


async def test_without_rejected_rows_there_is_no_artifact():
    """Nor an upload."""
    place = Place()

    assert await place.write() is None
    assert await place.write([], []) is None
    assert (place.started, place.between.log) == ([], [])


async def test_an_object_for_each_row():
    """Its number in the source, the step, the reason, and the row as it was read."""
    place = Place()
    artifact = await place.write([faulty(3, id=3, name="c")], [], [faulty(7, reason="'x'", id=7, name=None), faulty(8)])

    assert artifact is not None
    assert (artifact.key, artifact.dataset, artifact.rows, artifact.rejected) == (KEY, "records", 3, True)
    assert (artifact.format, artifact.compression, artifact.destination) == ("ndjson", "none", "memory://primary")
    assert await place.lines(artifact) == [
        {"row_number": 3, "step": "cast", "reason": "no", "row": {"id": 3, "name": "c"}},
        {"row_number": 7, "step": "cast", "reason": "'x'", "row": {"id": 7, "name": None}},
        {"row_number": 8, "step": "cast", "reason": "no", "row": {}},
    ]


async def test_values_as_they_were_read():
    """Exact numbers, nested documents, words that JSON has no numbers for, text of any kind; one line each."""
    place = Place()
    raw = {"amount": b"1.50", "doc": b'{"a":[1,null]}', "nan": b"NaN", "big": b"123456789012345678901234567890"}
    text = 'quote " newline \n half \ud800 :NaN ü'
    artifact = await place.write([faulty(1, **{k: msgspec.Raw(v) for k, v in raw.items()}, text=text)])

    assert artifact is not None
    await place.primary.complete(artifact, metadata=place.outlet.run.metadata)
    body, _ = place.primary.objects[KEY]
    assert body.count(b"\n") == 1
    assert b'"amount":1.50,"doc":{"a":[1,null]},"nan":"NaN","big":123456789012345678901234567890' in body
    assert json.loads(body)["row"]["text"] == text


async def test_it_goes_to_the_primary_destination_alone():
    """The one with the manifest, which names it; tables would have no place for it."""
    place = Place()
    artifact = await place.write([faulty(1, id=1)])

    assert artifact is not None
    assert place.started == [UploadRef(key=KEY, upload_id="upload-1", destination="memory://primary")]
    assert place.second.open_uploads == []


async def test_a_small_one_stands_in_the_plan():
    """And takes of its room."""
    place = Place(inline_limit=1000)
    artifact = await place.write([faulty(1, id=1)])

    assert artifact is not None
    assert isinstance(artifact.staged, InlineContent)
    assert len(b64decode(artifact.staged.content)) == artifact.size == place.outlet.inline_bytes
    assert place.started == []


@pytest.mark.parametrize("method", ["write", "seal"])
async def test_a_failure_aborts_it(method: str):
    """Nothing of it is left."""
    place = Place()
    place.between.on_next(method, None if method == "write" else refused(DOWN), refused(DOWN))

    with pytest.raises(DestinationUnavailable):
        await place.write([faulty(1, id=1)], [faulty(2, id=2)])

    assert place.started != []
    assert place.primary.open_uploads == []


async def test_without_seal_it_is_aborted():
    """Whatever the reason for leaving it."""
    place = Place()
    async with Quarantine("records", place.outlet) as quarantine:
        await quarantine.write([faulty(1, id=1)])

    assert place.started != []
    assert place.primary.open_uploads == []


async def test_a_row_that_is_too_large():
    """A rejected row takes memory like any other; many small ones are fine together."""
    place = Place(max_row_bytes=200)
    assert await place.write([faulty(number, id=number) for number in range(50)])

    with pytest.raises(RowTooLarge, match=r"'records' takes \d\d\d bytes, more than the 200"):
        await place.write([faulty(1, id=1), faulty(2, name="x" * 200)])
