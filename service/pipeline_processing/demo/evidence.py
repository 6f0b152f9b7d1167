"""Reads Kafka, the history and S3, to show their content and to check what the story says."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.destinations.s3.client import S3Client
from pipeline_processing.destinations.s3.errors import ObjectMissing
from pipeline_processing.messaging.port import Record, Topics
from pipeline_processing.model import Run
from pipeline_processing.options.locations import S3Location, parse_location
from pipeline_processing.runs.store import RunStore
from pipeline_processing.settings.settings import KafkaSettings

_POLL_SECONDS = 0.05


class StoryUntrue(Exception):
    """The demo went otherwise than its story says. The message says what happened instead."""

    def __init__(self, what: str) -> None:
        super().__init__(f"The demo went otherwise than it tells: {what}.")


def expect(true: bool, otherwise: str) -> None:
    """Raises StoryUntrue unless what the demo is about to say is true."""
    if not true:
        raise StoryUntrue(otherwise)


class StoredObject(NamedTuple):
    """The content of an object, and its metadata."""

    body: bytes
    metadata: Mapping[str, str]


class Evidence:
    """Read-only access to Kafka, the history and S3."""

    def __init__(self, *, kafka: KafkaSettings, topics: Topics, runs: RunStore, s3: S3Client) -> None:
        self.kafka = kafka
        self._topics = topics
        self._runs = runs
        self._s3 = s3

    async def settled(self) -> None:
        """Return once all messages sent so far are accepted, all runs have finished, and all events are sent."""
        clock, topic = SystemClock(), self.kafka.requests_topic
        ends = await self._topics.ends(topic)
        while await self._topics.committed(topic) != ends or not await self._runs.queue.idle():
            await clock.sleep(_POLL_SECONDS)

    async def records(self, topic: str) -> list[Record]:
        """Return all records of the topic, by key."""
        found = [record async for record in self._topics.read(topic)]
        return sorted(found, key=lambda record: (record.key or b"", record.partition, record.offset))

    async def history(self) -> dict[str, Run]:
        """Return all runs of the history, by run id."""
        return {run.run_id: run for run in sorted(await self._runs.history.newest(), key=lambda run: run.run_id)}

    async def objects(self, urls: Sequence[str]) -> list[StoredObject]:
        """Return these objects from S3."""
        found = []
        for where in map(_located, urls):
            body = await self._s3.get_object(bucket=where.bucket, key=where.prefix)
            head = await self._s3.head_object(bucket=where.bucket, key=where.prefix)
            found.append(StoredObject(body, head.metadata))
        return found

    async def left_at(self, urls: Sequence[str]) -> list[str]:
        """Return the URLs that have an object, or an upload that may become one."""
        left = []
        for url in urls:
            where = _located(url)
            uploads = [each async for each in self._s3.pending_uploads(bucket=where.bucket, prefix=where.prefix)]
            if uploads or await self._exists(where):
                left.append(url)
        return left

    async def _exists(self, where: S3Location) -> bool:
        try:
            await self._s3.head_object(bucket=where.bucket, key=where.prefix)
        except ObjectMissing:
            return False
        return True


def _located(url: str) -> S3Location:
    location = parse_location(url)
    assert isinstance(location, S3Location)  # the demo has no other destination
    return location
