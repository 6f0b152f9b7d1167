"""A service in memory with a past: requests in the topic, runs in the history, dead letters."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from pipeline_processing.errors import RequestError
from pipeline_processing.history.memory.store import memory_run_store
from pipeline_processing.history.memory.table import RunTable
from pipeline_processing.messaging.dead_letters import dead_letter, without_value
from pipeline_processing.messaging.port import Outgoing, Record
from pipeline_processing.model import JobRequest, Run, RunFailure
from pipeline_processing.plan import Plan
from pipeline_processing.requests.job_messages import received
from pipeline_processing.runs.store import Claim, Incoming, Origin, Outcome, RunStore
from pipeline_processing.settings.settings import Settings
from pipeline_processing.telemetry.masking import Mask
from tests.memory.broker import MemoryBroker
from tests.memory.letters import MemoryLetters
from tests.unit.stepped_clock import SteppedClock

TOPIC = "agency-jobs.requests"
LETTERS = "agency-jobs.dead-letters"
TRACE, SPAN = "6f1c0a9d27b84e53a1d2c3b4e5f60718", "a1b2c3d4e5f60718"
NO_PLAN = Plan(destination="memory://", artifacts=(), metadata={}, manifest_key="m", manifest="{}")
BROKEN = RunFailure(kind="query_failed", message="division by zero", retryable=False, exit_code=1)


class Past:
    """Sends requests, takes them as the intake does, and ends their runs."""

    def __init__(self, *, partitions: int = 2) -> None:
        self.clock = SteppedClock()
        self.broker = MemoryBroker(clock=self.clock, topics=[TOPIC, LETTERS], partitions=partitions)
        self.table = RunTable(clock=self.clock)
        self.runs = memory_run_store(self.table)
        self.kept = MemoryLetters(clock=self.clock)
        self._taken: dict[int, int] = {}

    @property
    def sent(self) -> list[Record]:
        """All messages of the requests topic."""
        return self.broker.records(TOPIC)

    @property
    def letters(self) -> list[Record]:
        """All dead letters."""
        return self.broker.records(LETTERS)

    def send(self, value: str | bytes | None, *, key: bytes | None = b"7", **headers: str) -> Record:
        """Any message."""
        message = Outgoing(
            topic=TOPIC,
            key=key,
            value=value.encode() if isinstance(value, str) else value,
            headers=tuple((name, text.encode()) for name, text in headers.items()),
        )
        return self.broker.put(message)

    def request(self, run_id: str | None = None, *, agency_id: int = 7, **fields: Any) -> Record:
        """A bare request, a second after the one before."""
        self.clock.pass_(1)
        request = JobRequest(agency_id=agency_id, run_id=run_id, **fields)
        return self.send(request.model_dump_json(exclude_defaults=True), key=str(agency_id).encode())

    async def take(self) -> None:
        """What came since becomes runs and dead letters, and is committed."""
        new = [record for record in self.sent if record.offset >= self._taken.get(record.partition, 0)]
        for record in new:
            try:
                asked = received(record)
                await self.runs.intake.accept(
                    Incoming(
                        request=asked.request,
                        run_id=asked.run_id,
                        trace_id=TRACE,
                        span_id=SPAN,
                        origin=Origin(record.topic, record.partition, record.offset),
                    )
                )
            except RequestError as error:
                self.put_aside(record, error)
        self._taken = dict(await self.broker.ends(TOPIC))
        self.broker.committed_by_member(TOPIC, self._taken)

    def put_aside(self, record: Record, error: RequestError, *, left_out: bool = False) -> Record:
        """A dead letter of it, a second after whatever was before."""
        self.clock.pass_(1)
        letter = dead_letter(record, error, topic=LETTERS, now=self.clock.now(), mask=Mask())
        return self.broker.put(without_value(letter) if left_out else letter)

    async def keep(self, record: Record, error: RequestError) -> None:
        """A dead letter of it that the broker refuses for good, a second after whatever was before."""
        self.clock.pass_(1)
        await self.kept.keep([dead_letter(record, error, topic=LETTERS, now=self.clock.now(), mask=Mask())])

    async def succeed(self, *run_ids: str) -> None:
        """The runs end well, with nothing to publish."""
        for run_id in run_ids:
            claim = await self._claimed(run_id)
            await self.runs.attempts.prepare(claim, NO_PLAN, Outcome())
            await self.runs.attempts.succeed(claim)

    async def fail(self, *run_ids: str) -> None:
        """The runs end badly."""
        for run_id in run_ids:
            await self.runs.attempts.fail(await self._claimed(run_id), BROKEN)

    async def _claimed(self, run_id: str) -> Claim:
        claim = await self.runs.queue.claim(
            worker="w", lease=timedelta(days=1), max_runs_per_agency=10**9, run_id=run_id
        )
        assert claim is not None, run_id
        return claim

    async def all_runs(self) -> list[Run]:
        """The history, oldest first."""
        return (await self.runs.history.newest(limit=None))[::-1]

    @contextmanager
    def behind_the_command_line(self) -> Iterator[None]:
        """Commands work on this instead of servers."""

        @asynccontextmanager
        async def history(settings: Settings) -> AsyncIterator[RunStore]:
            yield self.runs

        @asynccontextmanager
        async def letters(settings: Settings) -> AsyncIterator[MemoryLetters]:
            yield self.kept

        @asynccontextmanager
        async def broker(settings: Settings) -> AsyncIterator[MemoryBroker]:
            yield self.broker

        app = "pipeline_processing.app"
        with (
            patch(f"{app}.history.run_store", history),
            patch(f"{app}.history.letters", letters),
            patch(f"{app}.kafka.topics", broker),
            patch(f"{app}.kafka.events", broker),
            patch("pipeline_processing.aio.clock.SystemClock", lambda: self.clock),
        ):
            yield
