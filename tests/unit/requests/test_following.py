"""Following: every request that was sent comes to one end, whatever the brokers do meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline_processing.errors import AccessDenied, ConflictingRequest, UnknownDataset
from pipeline_processing.messaging.dead_letters import DeadLetter, dead_letter
from pipeline_processing.messaging.port import Outgoing
from pipeline_processing.model import JobRequest, RunFailure, RunState
from pipeline_processing.requests.following import Follower, Outcome, exit_code_of
from pipeline_processing.requests.submission import Sent, Submitter
from pipeline_processing.runs.completions import RunCompletion, RunProgress
from pipeline_processing.settings.settings import KafkaSettings
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.tracing import IdsOnlyTracer
from tests.memory.broker import MemoryBroker
from tests.unit.virtual_clock import EPOCH, VirtualClock, in_virtual_time

REQUESTS, COMPLETIONS, PROGRESS, LETTERS = "requests", "completions", "progress", "dead-letters"
BROKEN = RunFailure(kind="query_failed", message="division by zero", retryable=False, exit_code=1)
CONFLICT = ConflictingRequest("run-1")


def completion(agency_id: int, **fields: Any) -> RunCompletion:
    """A run of that agency has succeeded, or whatever the fields say."""
    return RunCompletion.model_validate(
        {
            "run_id": f"run-{agency_id}",
            "job": "agency_data_job",
            "agency_id": agency_id,
            "state": "succeeded",
            "attempt": 1,
            "dry_run": False,
            "replay_of": None,
            "requested_at": EPOCH,
            "started_at": EPOCH,
            "finished_at": EPOCH,
            "duration_ms": 0,
            **dict.fromkeys(("rows_read", "rows_written", "rows_filtered", "rows_rejected", "bytes_written"), 0),
            "manifest": None,
            "trace_id": "ab" * 16,
            "error": None,
            **fields,
        }
    )


def announced(completion: RunCompletion) -> Outgoing:
    return Outgoing(COMPLETIONS, str(completion.agency_id).encode(), completion.model_dump_json().encode())


def progress(agency_id: int, rows: int) -> Outgoing:
    value = RunProgress(
        run_id=f"run-{agency_id}",
        agency_id=agency_id,
        attempt=1,
        state=RunState.RUNNING,
        dataset="records",
        stage="load",
        rows_read=rows,
        rows_written=rows,
        bytes_written=0,
        at=datetime(2026, 1, 18, tzinfo=UTC),
    )
    return Outgoing(PROGRESS, str(agency_id).encode(), value.model_dump_json().encode())


class Scene:
    """Brokers, and somebody who submits and follows."""

    def __init__(self) -> None:
        clock = VirtualClock()
        self.kafka = MemoryBroker(clock=clock, topics=(REQUESTS, COMPLETIONS, PROGRESS, LETTERS), partitions=2)
        self.sent: list[Sent] = []
        self.outcomes: dict[str, Outcome] = {}
        self.rows: list[int] = []
        self._submitter = Submitter(events=self.kafka, topic=REQUESTS, clock=clock, tracer=IdsOnlyTracer())
        names = KafkaSettings(completions_topic=COMPLETIONS, dead_letters_topic=LETTERS, progress_topic=PROGRESS)
        self.follower = Follower(topics=self.kafka, names=names, clock=clock)

    async def submit(self, *agencies: int, **fields: Any) -> None:
        requests = [
            JobRequest.model_validate({"agency_id": agency, "run_id": f"run-{agency}", **fields}) for agency in agencies
        ]
        await self.follower.begin()
        self.sent = [each async for batch in self._submitter.send(requests) for each in batch]

    async def follow(self) -> None:
        """Raises TimeoutError if it takes a virtual minute."""
        async with asyncio.timeout(60):
            await self.follower.follow(
                self.sent,
                on_progress=lambda progress: self.rows.append(progress.rows_read),
                on_outcome=self.outcomes.__setitem__,
            )

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follows while the block does something, and then to the end."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.follow())
            await asyncio.sleep(0.1)
            yield

    def letter(self, agency_id: int = 1) -> Outgoing:
        """The dead letter of a request that was sent."""
        (record,) = [each for each in self.kafka.records(REQUESTS) if each.key == str(agency_id).encode()]
        return dead_letter(record, CONFLICT, topic=LETTERS, now=EPOCH, mask=Mask())


@in_virtual_time
async def test_following_ends_with_the_last_run() -> None:
    """Each run's outcome is told once, as it comes, and its progress before."""
    scene = Scene()
    await scene.submit(1, 2)

    async with scene.following():
        scene.kafka.put(progress(2, 500))
        scene.kafka.put(progress(9, 501))
        await asyncio.sleep(1)
        scene.kafka.put(announced(completion(9)))
        scene.kafka.put(announced(completion(2)))
        scene.kafka.put(announced(completion(2, state="failed", error=BROKEN)))
        scene.kafka.put(progress(2, 502))
        await asyncio.sleep(1)
        assert list(scene.outcomes) == ["run-2"]
        scene.kafka.put(announced(completion(1)))

    assert scene.outcomes == {"run-2": completion(2), "run-1": completion(1)}
    assert scene.rows == [500]


@in_virtual_time
async def test_what_is_announced_before_the_first_look_counts() -> None:
    """A run may be done before the last request of a file is sent."""
    scene = Scene()
    await scene.submit(1, 2)
    scene.kafka.put(announced(completion(1)))
    scene.kafka.put(scene.letter(2))

    await scene.follow()

    assert set(scene.outcomes) == {"run-1", "run-2"}


@in_virtual_time
async def test_what_was_announced_before_sending_does_not_count() -> None:
    """A run id that is used again waits for the announcement that is sent for it again."""
    scene = Scene()
    scene.kafka.put(announced(completion(1, state="failed", error=BROKEN)))
    await scene.submit(1)

    async with scene.following():
        await asyncio.sleep(5)
        assert not scene.outcomes
        scene.kafka.put(announced(completion(1)))

    assert scene.outcomes == {"run-1": completion(1)}


@in_virtual_time
async def test_a_dead_letter_is_an_end() -> None:
    """With its reason and message."""
    scene = Scene()
    await scene.submit(1)

    async with scene.following():
        scene.kafka.put(scene.letter())

    letter = scene.outcomes["run-1"]
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.message) == ("conflicting_request", str(CONFLICT))
    assert exit_code_of(letter) == 65


@in_virtual_time
async def test_dead_letters_of_others_do_not_count() -> None:
    """Not one of the same run id that somebody else sent, nor what isn't a dead letter at all."""
    scene = Scene()
    await scene.submit(1)
    (mine,) = scene.kafka.records(REQUESTS)
    theirs = replace(mine, headers=(("traceparent", b"00-" + b"ef" * 16 + b"-" + b"ef" * 8 + b"-01"),))

    async with scene.following():
        scene.kafka.put(dead_letter(theirs, CONFLICT, topic=LETTERS, now=EPOCH, mask=Mask()))
        scene.kafka.put(Outgoing(LETTERS, b"1", b"{", mine.headers))
        scene.kafka.put(Outgoing(LETTERS, None, None))
        scene.kafka.put(dead_letter(replace(mine, headers=()), CONFLICT, topic=LETTERS, now=EPOCH, mask=Mask()))
        await asyncio.sleep(1)
        assert not scene.outcomes
        scene.kafka.put(announced(completion(1)))

    assert scene.outcomes == {"run-1": completion(1)}


@in_virtual_time
async def test_a_run_of_another_request_is_not_ours() -> None:
    """Where the run id was used for another agency, that one's end says nothing about this request."""
    scene = Scene()
    await scene.submit(1)

    async with scene.following():
        scene.kafka.put(announced(completion(2, run_id="run-1")))
        scene.kafka.put(announced(completion(1, dry_run=True)))
        scene.kafka.put(scene.letter())

    assert isinstance(scene.outcomes["run-1"], DeadLetter)


@in_virtual_time
async def test_what_nobody_understands_is_passed_over() -> None:
    """And keys that a later version adds are no reason to wait for ever."""
    scene = Scene()
    await scene.submit(1)
    later = announced(completion(1, state="failed", error=BROKEN))
    assert later.value is not None
    later = replace(later, value=later.value.replace(b'"kind"', b'"hint":1,"kind"').replace(b"{", b'{"cost":2,', 1))

    async with scene.following():
        for topic in (COMPLETIONS, PROGRESS):
            for value in (None, b"", b"{", b"[]", b'{"run_id": "run-1"}'):
                scene.kafka.put(Outgoing(topic, b"1", value))
        await asyncio.sleep(1)
        assert not scene.outcomes
        scene.kafka.put(later)

    assert scene.outcomes == {"run-1": completion(1, state="failed", error=BROKEN)}


@in_virtual_time
async def test_an_outage_loses_nothing_and_is_said_once() -> None:
    """What was announced while the brokers were away is read when they are back."""
    scene = Scene()
    await scene.submit(1, 2, 3)

    with capture_logs() as logs:
        async with scene.following():
            scene.kafka.put(announced(completion(1)))
            await asyncio.sleep(1)
            scene.kafka.outage = True
            scene.kafka.put(announced(completion(2)))
            await asyncio.sleep(20)
            assert list(scene.outcomes) == ["run-1"]
            scene.kafka.put(scene.letter(3))
            scene.kafka.outage = False

    assert set(scene.outcomes) == {"run-1", "run-2", "run-3"}
    assert [line["event"] for line in logs] == ["Kafka can't be used; retrying until it can", "Kafka is back"]


@in_virtual_time
async def test_what_was_read_is_not_read_again() -> None:
    """After an outage it goes on where it was, not where it began."""
    scene = Scene()
    await scene.submit(1, 2)
    starts: list[Any] = []
    read = scene.kafka.read

    def noting(topic: str, **places: Any) -> Any:
        starts.append((topic, dict(places["start"])))
        return read(topic, **places)

    scene.kafka.read = noting  # type: ignore[method-assign]
    async with scene.following():
        scene.kafka.put(announced(completion(2)))
        await asyncio.sleep(1)
        scene.kafka.outage = True
        scene.kafka.put(progress(9, 1))  # or nobody would notice
        await asyncio.sleep(5)
        scene.kafka.outage = False
        scene.kafka.put(announced(completion(1)))

    assert [topic for topic, _ in starts] == [COMPLETIONS, LETTERS, COMPLETIONS, LETTERS]
    assert [sum(start.values()) for _, start in starts] == [0, 0, 1, 0]


@in_virtual_time
async def test_what_no_waiting_mends_is_raised() -> None:
    """Such as a topic that may not be read."""
    scene = Scene()
    await scene.submit(1)

    def refused(topic: str, **_: Any) -> Any:
        raise AccessDenied("no")

    scene.kafka.read = refused  # type: ignore[method-assign]
    with pytest.raises(AccessDenied):
        await scene.follow()


@in_virtual_time
async def test_two_requests_of_one_run_have_one_end() -> None:
    """A file may name the same request twice."""
    scene = Scene()
    await scene.submit(1, 1)
    scene.kafka.put(announced(completion(1)))

    await scene.follow()

    assert scene.outcomes == {"run-1": completion(1)}


def test_exit_codes_are_those_of_run() -> None:
    """By what became of the run."""
    assert exit_code_of(completion(1)) == 0
    assert exit_code_of(completion(1, state="failed", error=BROKEN)) == 1
    assert exit_code_of(completion(1, state="cancelled")) == 79


def test_every_error_of_a_request_is_65() -> None:
    """So a dead letter's reason need not be looked up."""
    assert {CONFLICT.exit_code, UnknownDataset(["a"], available=["b"]).exit_code} == {65}
