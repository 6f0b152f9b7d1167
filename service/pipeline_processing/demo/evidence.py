"""Kafka, the history and S3 as they are: what the story shows, and is held to."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.destinations.s3.client import S3Client
from pipeline_processing.destinations.s3.errors import ObjectMissing
from pipeline_processing.messaging.port import Record, Topics
from pipeline_processing.model import Run
from pipeline_processing.options.locations import S3Location, parse_location
from pipeline_processing.runs.store import RunStore
from pipeline_processing.settings.settings import Settings

_LOOK_SECONDS = 0.05


class StoredObject(NamedTuple):
    """What an object holds, and its metadata."""

    body: bytes
    metadata: Mapping[str, str]


class Evidence:
    """Looks, and changes nothing."""

    def __init__(self, *, settings: Settings, topics: Topics, runs: RunStore, s3: S3Client) -> None:
        self._requests_topic = settings.kafka.requests_topic
        self._topics = topics
        self._runs = runs
        self._s3 = s3

    async def settled(self) -> None:
        """Return once all that was sent by now is taken, every run at its end, and every event on its topic."""
        clock = SystemClock()
        ends = await self._topics.ends(self._requests_topic)
        while await self._topics.committed(self._requests_topic) != ends:
            await clock.sleep(_LOOK_SECONDS)
        while not await self._runs.queue.idle():
            await clock.sleep(_LOOK_SECONDS)

    async def records(self, topic: str) -> list[Record]:
        """All that the topic holds, by key."""
        found = [record async for record in self._topics.read(topic)]
        return sorted(found, key=lambda record: (record.key or b"", record.partition, record.offset))

    async def history(self) -> dict[str, Run]:
        """All runs that the history has, by run id."""
        return {run.run_id: run for run in sorted(await self._runs.history.newest(), key=lambda run: run.run_id)}

    async def objects(self, urls: Sequence[str]) -> list[StoredObject]:
        """Objects as they are in S3."""
        return [await self._object(_located(url)) for url in urls]

    async def left_at(self, urls: Sequence[str]) -> list[str]:
        """Which of these have an object, or an upload that may become one."""
        left = []
        for url in urls:
            where = _located(url)
            uploads = [each async for each in self._s3.pending_uploads(bucket=where.bucket, prefix=where.prefix)]
            if uploads or await self._is_there(where):
                left.append(url)
        return left

    async def _object(self, where: S3Location) -> StoredObject:
        body = await self._s3.get_object(bucket=where.bucket, key=where.prefix)
        head = await self._s3.head_object(bucket=where.bucket, key=where.prefix)
        return StoredObject(body, head.metadata)

    async def _is_there(self, where: S3Location) -> bool:
        try:
            await self._s3.head_object(bucket=where.bucket, key=where.prefix)
        except ObjectMissing:
            return False
        return True


def _located(url: str) -> S3Location:
    location = parse_location(url)
    assert isinstance(location, S3Location)  # the demo has no other destination
    return location
