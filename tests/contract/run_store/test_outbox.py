"""Events leave the outbox by way of a broker's ack, and come back when a message asks for their run again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from pipeline_processing.errors import (
    ConflictingRequest,
    HistoryUnavailable,
    KafkaUnavailable,
    QueryFailed,
    SourceBusy,
)
from pipeline_processing.history.postgres import outbox
from pipeline_processing.history.postgres.intake import Storable, write
from pipeline_processing.model import RunState
from pipeline_processing.runs.completions import OutboxEvent
from pipeline_processing.runs.store import Announce, RunStore
from tests.contract.run_store.conftest import Backend, PostgresBackend, postgres_backend
from tests.contract.run_store.helpers import (
    FAILURE,
    OUTCOME,
    PLAN,
    accepted,
    claimed,
    finished,
    incoming,
    message,
    prepared,
    standing,
    taken_over,
)


class Broker:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.batches: list[Sequence[OutboxEvent]] = []

    async def send(self, events: Sequence[OutboxEvent]) -> None:
        self.batches.append(events)

    @property
    def ids(self) -> list[str]:
        """Of all events, in the order in which they were sent."""
        return [event.event_id for batch in self.batches for event in batch]


@pytest.fixture
def broker() -> Broker:
    return Broker()


def refusing(error: BaseException) -> Announce:
    """What a broker does that can't be reached."""

    async def send(events: Sequence[OutboxEvent]) -> None:
        raise error

    return send


# -- announcing ----------------------------------------------------------------------------------


async def test_events_are_announced_oldest_first(runs: RunStore, broker: Broker) -> None:
    """So many at a time, each once; then there is nothing to send."""
    for number in range(5):
        await finished(runs, f"r-{number}")

    assert [await runs.outbox.announce(broker.send, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert [len(batch) for batch in broker.batches] == [2, 2, 1]
    assert broker.ids == [f"r-{number}:failed" for number in range(5)]


async def test_what_comes_after_nothing_was_there_is_announced_once(runs: RunStore, broker: Broker) -> None:
    """Also if one looked several times in between."""
    assert [await runs.outbox.announce(broker.send, limit=2) for _ in range(2)] == [0, 0]
    await finished(runs, "r")

    assert [await runs.outbox.announce(broker.send, limit=2) for _ in range(3)] == [1, 0, 0]
    assert broker.ids == ["r:failed"]


async def test_an_event_is_sent_as_it_was_written(backend: Backend, broker: Broker) -> None:
    """Id, key, headers and bytes; the request's tracestate among the headers."""
    claim = await prepared(backend.runs)
    await backend.runs.attempts.succeed(claim)
    await backend.runs.intake.accept(replace(incoming("traced"), tracestate="vendor=1"))
    await backend.runs.attempts.fail(await claimed(backend.runs), FAILURE)

    await backend.runs.outbox.announce(broker.send, limit=10)

    [[first, second]] = broker.batches
    assert [first] == await backend.outbox("r")
    assert [second] == await backend.outbox("traced")
    assert "tracestate" not in first.headers
    assert second.headers["tracestate"] == "vendor=1"


@pytest.mark.parametrize(
    "error",
    [
        KafkaUnavailable("no broker"),
        SourceBusy("not the history's own"),
        QueryFailed("not the history's own"),
        OSError("disk full"),
        TimeoutError(),
        ValueError("x"),
        asyncio.CancelledError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_was_not_stored_by_the_broker_stays_unsent(
    runs: RunStore, broker: Broker, error: BaseException
) -> None:
    """Whoever sends it is told why, in the very words of whoever refused."""
    await finished(runs)

    with pytest.raises(type(error)) as refused:
        await runs.outbox.announce(refusing(error), limit=10)
    assert refused.value is error
    assert await runs.outbox.announce(broker.send, limit=10) == 1


async def test_a_cancelled_announcement_marks_nothing(runs: RunStore, broker: Broker) -> None:
    """It may have been stored or not; it is sent again."""
    await finished(runs)
    sending = asyncio.Event()

    async def send(events: Sequence[OutboxEvent]) -> None:
        sending.set()
        await asyncio.Event().wait()

    announcing = asyncio.create_task(runs.outbox.announce(send, limit=10))
    await sending.wait()
    announcing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await announcing

    assert not await runs.queue.idle()
    assert await runs.outbox.announce(broker.send, limit=10) == 1


async def test_nobody_sends_what_another_is_sending(runs: RunStore, broker: Broker) -> None:
    """Whoever comes meanwhile gets other events, or none."""
    for number in range(3):
        await finished(runs, f"r-{number}")

    async def send(events: Sequence[OutboxEvent]) -> None:
        await broker.send(events)
        assert await runs.outbox.announce(broker.send, limit=2) == 1
        assert await runs.outbox.announce(broker.send, limit=2) == 0

    assert await runs.outbox.announce(send, limit=2) == 2
    assert broker.ids == ["r-0:failed", "r-1:failed", "r-2:failed"]
    assert await runs.outbox.announce(broker.send, limit=10) == 0


# -- asked for again -----------------------------------------------------------------------------


async def test_a_finished_run_that_a_message_asks_for_is_announced_again(backend: Backend, broker: Broker) -> None:
    """Each time with the same id and bytes, once however often a batch asks; nothing else changes."""
    runs = backend.runs
    run = await finished(runs)
    await finished(runs, "other")
    await runs.outbox.announce(broker.send, limit=10)

    for _ in range(3):
        assert await runs.intake.accept_all([message(offset=1), incoming(), message(offset=2)]) == [run] * 3
        assert not await runs.queue.idle()
        assert await runs.outbox.announce(broker.send, limit=10) == 1

    first, *copies = [event for batch in broker.batches for event in batch if event.run_id == "r"]
    assert copies == [first] * 3
    assert await standing(runs) == run
    assert len(await backend.outbox("r")) == 1


async def test_only_a_message_that_asks_for_the_same_has_it_announced_again(runs: RunStore, broker: Broker) -> None:
    """Not the `run` command, which prints the result itself, nor one that asks for something else."""
    await finished(runs)
    await runs.outbox.announce(broker.send, limit=10)

    await runs.intake.accept(incoming())
    with pytest.raises(ConflictingRequest):
        await runs.intake.accept(message(agency_id=8))
    [_, refused] = await runs.intake.accept_all([incoming(), message(agency_id=8)])

    assert isinstance(refused, ConflictingRequest)
    assert await runs.outbox.announce(broker.send, limit=10) == 0


@pytest.mark.parametrize("state", ["queued", "running", "prepared"])
async def test_a_run_in_progress_is_announced_once(runs: RunStore, broker: Broker, state: str) -> None:
    """When it ends; a message that asks for it meanwhile changes nothing."""
    claim = await prepared(runs) if state == "prepared" else None
    if claim is None:
        await accepted(runs)
    if state == "running":
        await claimed(runs)

    run = await runs.intake.accept(message())

    assert (run.state, run) == (state, await standing(runs))
    if claim is None:
        await runs.queue.cancel("r")
    else:
        await runs.attempts.succeed(claim)
    assert await runs.outbox.announce(broker.send, limit=10) == 1
    assert await runs.outbox.announce(broker.send, limit=10) == 0


async def test_asking_again_does_not_wait_for_an_announcement_under_way(runs: RunStore, broker: Broker) -> None:
    """A slow broker keeps no intake; and what it has stored before somebody asked again doesn't answer that."""
    for number in range(3):
        await finished(runs, f"r-{number}")

    async def send(events: Sequence[OutboxEvent]) -> None:
        await broker.send(events)
        async with asyncio.timeout(10):
            await runs.intake.accept_all([message("r-1"), message("r-2", agency_id=7), message("new")])
        assert await runs.outbox.announce(broker.send, limit=10) == 0

    assert await runs.outbox.announce(send, limit=10) == 3
    assert not await runs.queue.idle()

    assert await runs.outbox.announce(broker.send, limit=10) == 2
    assert broker.ids[3:] == ["r-1:failed", "r-2:failed"]
    assert await runs.outbox.announce(broker.send, limit=10) == 0


async def test_many_announcers_and_intakes_leave_nothing_untold(runs: RunStore) -> None:
    """Every event is sent after the last time its run was asked for."""
    for number in range(12):
        await finished(runs, f"r-{number}", agency_id=1 + number)
    log: list[str] = []

    async def send(events: Sequence[OutboxEvent]) -> None:
        log.extend(f"{event.run_id} sent" for event in events)
        await asyncio.sleep(0)

    async def announce() -> None:
        for _ in range(30):
            await runs.outbox.announce(send, limit=5)
            await asyncio.sleep(0)

    async def ask(first: int) -> None:
        for number in range(30):
            run_id = f"r-{(first + number) % 12}"
            log.append(f"{run_id} asked")
            await runs.intake.accept(message(run_id, agency_id=1 + (first + number) % 12))
            await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await asyncio.gather(announce(), announce(), announce(), ask(0), ask(5))
        while await runs.outbox.announce(send, limit=100):
            pass

    assert await runs.queue.idle()
    last = {entry.split()[0]: entry.split()[1] for entry in log}
    assert last == {f"r-{number}": "sent" for number in range(12)}


# -- on Postgres ---------------------------------------------------------------------------------


async def test_a_slow_broker_breaks_no_time_limit_of_the_history(
    on_postgres: PostgresBackend, database: str, schema: str, broker: Broker
) -> None:
    """While an ack is awaited no command is under way: the limit of a single command says nothing about that."""
    await finished(on_postgres.runs)

    async def send(events: Sequence[OutboxEvent]) -> None:
        await asyncio.sleep(1.2)  # longer than the limit, which a busy machine must not reach
        await broker.send(events)

    async with postgres_backend(database, schema, command_seconds=1.0) as impatient:
        assert await impatient.runs.outbox.announce(send, limit=10) == 1
    assert await on_postgres.runs.outbox.announce(broker.send, limit=10) == 0


@pytest.mark.parametrize("error", [KafkaUnavailable("no broker"), asyncio.CancelledError()], ids=repr)
async def test_a_history_that_breaks_off_meanwhile_hides_no_error(
    on_postgres: PostgresBackend, broker: Broker, error: BaseException
) -> None:
    """Undoing the transaction fails then too, and must not take the place of a cancellation."""
    await finished(on_postgres.runs)

    async def send(events: Sequence[OutboxEvent]) -> None:
        await _cut_off_others(on_postgres)
        raise error

    with pytest.raises(type(error)) as refused:
        await on_postgres.runs.outbox.announce(send, limit=10)
    assert refused.value is error
    assert await on_postgres.runs.outbox.announce(broker.send, limit=10) == 1


async def test_a_history_that_breaks_off_after_the_ack_leaves_the_event_unsent(
    on_postgres: PostgresBackend, broker: Broker
) -> None:
    """It is sent again, which harms nobody."""
    await finished(on_postgres.runs)

    async def send(events: Sequence[OutboxEvent]) -> None:
        await broker.send(events)
        await _cut_off_others(on_postgres)

    with pytest.raises(HistoryUnavailable):
        await on_postgres.runs.outbox.announce(send, limit=10)
    assert await on_postgres.runs.outbox.announce(broker.send, limit=10) == 1
    assert broker.ids == ["r:failed"] * 2


async def test_an_announcer_that_vanished_keeps_its_events_for_a_limited_time(
    on_postgres: PostgresBackend, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends its session, and another one sends them."""
    monkeypatch.setattr(outbox, "_LONGEST_SENDING_SECONDS", 0.05)
    await finished(on_postgres.runs)

    async def send(events: Sequence[OutboxEvent]) -> None:
        async with asyncio.timeout(20):
            while not await on_postgres.runs.outbox.announce(broker.send, limit=10):  # noqa: ASYNC110 nothing tells us
                await asyncio.sleep(0.01)

    with pytest.raises(HistoryUnavailable):
        await on_postgres.runs.outbox.announce(send, limit=10)
    assert broker.ids == ["r:failed"]


async def test_an_intake_that_is_just_writing_has_the_event_sent_again(
    on_postgres: PostgresBackend, broker: Broker
) -> None:
    """
    It found the event unsent, since that was being sent. The announcement doesn't wait for the intake's lock on the
    run's row: the two could wait for each other.
    """
    await finished(on_postgres.runs)
    async with on_postgres.database.connection() as connection:
        writing = connection.transaction()

        async def send(events: Sequence[OutboxEvent]) -> None:
            await writing.start()
            await write(connection, [Storable(message(), digest=message().request.digest())])

        async with asyncio.timeout(20):
            assert await on_postgres.runs.outbox.announce(send, limit=10) == 1
        await writing.commit()

    assert await on_postgres.runs.outbox.announce(broker.send, limit=10) == 1


async def _cut_off_others(on_postgres: PostgresBackend) -> None:
    """End every other session that works on this history."""
    async with on_postgres.database.connection() as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tests' "
            "AND datname = current_database() AND pid <> pg_backend_pid()"
        )


# -- idle ----------------------------------------------------------------------------------------


async def test_a_new_history_is_idle(runs: RunStore) -> None:
    """There is nothing to do."""
    assert await runs.queue.idle()


async def test_a_run_is_work_until_it_is_told_of(backend: Backend, broker: Broker) -> None:
    """In every state on its way, and whether somebody holds it or not."""
    runs = backend.runs
    await accepted(runs)
    assert not await runs.queue.idle()
    claim = await claimed(runs)
    assert not await runs.queue.idle()
    claim = await taken_over(backend, claim)
    await runs.attempts.prepare(claim, PLAN, OUTCOME)
    assert not await runs.queue.idle()
    await runs.attempts.release(claim, delay=timedelta(hours=1))
    assert not await runs.queue.idle()
    await backend.age("r", 3601)
    await runs.attempts.succeed(await claimed(runs))
    assert not await runs.queue.idle()
    await runs.outbox.announce(broker.send, limit=10)
    assert await runs.queue.idle()


async def test_a_run_that_waits_for_its_retry_is_work(runs: RunStore) -> None:
    """Whoever waits for all runs to end waits for that one."""
    await accepted(runs)
    await runs.attempts.retry(await claimed(runs), FAILURE, delay=timedelta(hours=1))

    assert not await runs.queue.idle()


async def test_a_request_for_later_is_no_work_yet(backend: Backend) -> None:
    """It may be a year from now; once it is due, it counts."""
    await accepted(backend.runs, not_before=backend.now() + timedelta(hours=1))
    assert await backend.runs.queue.idle()

    await backend.age("r", 3601)

    assert not await backend.runs.queue.idle()


# -- backlog -------------------------------------------------------------------------------------


async def test_the_backlog_of_a_new_history_is_empty(runs: RunStore) -> None:
    backlog = await runs.queue.backlog()

    assert set(backlog.runs.values()) == {0}
    assert set(backlog.oldest.values()) == {None}
    assert (backlog.unsent, backlog.oldest_unsent) == (0, None)


async def test_the_backlog_is_what_nobody_has_finished(backend: Backend) -> None:
    """By state, and unsent events. A run before its `not_before` counts, but isn't late."""
    runs = backend.runs
    await prepared(runs, "prepared")
    await accepted(runs, "running")
    await claimed(runs, "running")
    await finished(runs, "finished")
    await accepted(runs, "later", not_before=backend.now() + timedelta(seconds=50))

    backlog = await runs.queue.backlog()
    assert backlog.runs == {RunState.QUEUED: 1, RunState.RUNNING: 1, RunState.PREPARED: 1}
    assert [state for state, age in backlog.oldest.items() if age is None] == [RunState.QUEUED]
    assert backlog.unsent == 1
    assert backlog.oldest_unsent is not None

    await backend.age("later", 100)
    assert (await runs.queue.backlog()).oldest[RunState.QUEUED] is not None
