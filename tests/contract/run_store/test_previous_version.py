"""
Workers of the previous version run beside those of this one, on the history that this one has migrated.

Each call goes through the previous version's queries or through today's; neither may notice what the other wrote.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline_processing.aio.asking import Backoff, ask
from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.errors import PipelineError, Superseded
from pipeline_processing.history import postgres
from pipeline_processing.history.postgres.migrate import MIGRATIONS, migrate
from pipeline_processing.model import DatasetSchema, RunState
from pipeline_processing.plan import UploadRef
from pipeline_processing.runs.deliveries import Tried
from pipeline_processing.runs.run_filter import RunFilter
from pipeline_processing.runs.store import Claim, RunStore
from tests.contract.run_store.conftest import PostgresBackend, postgres_backend
from tests.contract.run_store.helpers import (
    FAILURE,
    LEASE,
    PAST_THE_LEASE,
    PLAN,
    PLANNED,
    SPAN,
    TRACE,
    UNPLANNED,
    accepted,
    claimed,
    message,
)
from tests.contract.run_store.previous_version import FOLDER, VERSION, in_turns, previous_queries, previous_run_store
from tests.contract.run_store.test_datasets import RECORDS, outcome
from tests.contract.run_store.test_migrations import NEXT
from tests.contract.run_store.test_outbox import Broker

EVER = datetime(9000, 1, 1, tzinfo=UTC)
NOW = timedelta()


@pytest.fixture
def previous(shared_postgres: PostgresBackend, shared_schema: str) -> RunStore:
    """The previous version's run store, on the tables of today's."""
    return previous_run_store(shared_postgres.database, schema=shared_schema)


# -- one call after the other --------------------------------------------------------------------

VARYING = re.compile(
    r"datetime\.\w+\([^()]*\)|\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+00:00)|(?<=fence=)\d+|(?<=duration_ms[=:])\d+|(?<=ms\":)\d+"
)


def constant(answer: Any) -> str:
    """What is told, without times and fences."""
    return VARYING.sub("…", repr(sorted(answer.items()) if isinstance(answer, dict) else answer))


class Told:
    """A port that also writes down what each call returned or raised."""

    def __init__(self, port: Any, story: list[str]) -> None:
        self._port = port
        self._story = story

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **options: Any) -> Any:
            try:
                answer = await getattr(self._port, name)(*arguments, **options)
            except PipelineError as error:
                self._story.append(f"{name}: {type(error).__name__}")
                raise
            self._story.append(f"{name}: {constant(answer)}")
            return answer

        return call


def told(runs: RunStore, story: list[str]) -> RunStore:
    return RunStore(**{port.name: Told(getattr(runs, port.name), story) for port in fields(RunStore)})


async def exported(runs: RunStore, run_id: str, *, worker: str = "w-1", **request: Any) -> Any:
    """A claim on a run that was prepared, as a worker does it."""
    await runs.intake.accept_all([message(run_id, **request)])
    claim = await claimed(runs, run_id, worker=worker)
    await runs.attempts.start(claim, trace_id=TRACE, span_id=SPAN)
    for upload in (UNPLANNED, *PLANNED):
        await runs.attempts.record_upload(claim, upload)
    await runs.queue.renew(claim, lease=LEASE)
    await runs.attempts.prepare(claim, PLAN, outcome())
    return claim


async def refused(*calls: Any) -> None:
    for call in calls:
        with pytest.raises(Superseded):
            await call


async def lives(backend: PostgresBackend, runs: RunStore) -> str:
    """Runs of every kind, from their requests to their tombstones. Returns the events that were sent."""
    broker = Broker()
    await runs.deliveries.configure({"billing": ["succeeded", "failed", "cancelled"]})

    claim = await exported(runs, "published")
    await runs.queue.check(claim)
    await runs.attempts.plan(claim)
    await runs.attempts.succeed(claim)
    await runs.attempts.succeed(claim)  # as if the reply had been lost

    lost = await exported(runs, "taken-over")
    await backend.age("taken-over", PAST_THE_LEASE)
    claim = await claimed(runs, worker="w-2")
    await refused(runs.queue.renew(lost, lease=LEASE), runs.attempts.succeed(lost))
    await runs.attempts.release(claim, delay=NOW)
    await runs.attempts.succeed(await claimed(runs))

    voided = await exported(runs, "plan-lost")
    await runs.attempts.void_plan(voided)
    claim = await claimed(runs)
    await runs.attempts.prepare(claim, PLAN, outcome(RECORDS))
    await runs.attempts.hand_back(claim)
    await runs.attempts.fail(await claimed(runs), FAILURE, state=RunState.PREPARED)

    await accepted(runs, "tried-again", labels={"team": "billing"}, replay_of="published")
    lost = await claimed(runs, "tried-again")
    await runs.attempts.record_upload(lost, UNPLANNED)
    await backend.age("tried-again", PAST_THE_LEASE)
    claim = await claimed(runs, "tried-again", worker="w-2")
    await refused(runs.queue.check(lost), runs.attempts.retry(lost, FAILURE, delay=NOW))
    await runs.attempts.hand_back(claim)
    await runs.attempts.retry(await claimed(runs), FAILURE, delay=NOW, counts=False)
    await runs.attempts.fail(await claimed(runs), FAILURE, outcome=outcome())

    await accepted(runs, "dry", dry_run=True)
    await runs.attempts.succeed(await claimed(runs), outcome())
    await accepted(runs, "cancelled-at-work")
    claim = await claimed(runs)
    await runs.queue.cancel("cancelled-at-work")
    await refused(runs.attempts.prepare(claim, PLAN, outcome()))
    await accepted(runs, "cancelled")
    await runs.queue.cancel("cancelled")
    await accepted(runs, "waiting")

    await looked_at(runs)
    for run_id in await runs.leftovers.runs_to_clean_up():
        lost_uploads = await runs.leftovers.lost_uploads(run_id)
        await runs.leftovers.lost_of(run_id, [*lost_uploads, UploadRef(key="large", upload_id="unknown")])
        await runs.leftovers.forget_uploads(run_id, lost_uploads)
        await runs.leftovers.failed_plan(run_id)
        await runs.leftovers.forget_failed_plan(run_id)
    for due in await runs.deliveries.claim("billing", limit=9, lease=LEASE):
        await runs.deliveries.record(due, Tried())
    while await runs.outbox.announce(broker.send, limit=3):
        pass
    await runs.pruning.prune(EVER, after=None, limit=9)
    await runs.intake.accept_all([message("published"), message("tried-again"), message("plan-lost")])
    await runs.outbox.announce(broker.send, limit=3)
    await looked_at(runs)
    return constant(broker.batches)


async def looked_at(runs: RunStore) -> None:
    """What `history`, the metrics and the workers read."""
    for run in await runs.history.newest():
        await runs.history.attempts(run.run_id)
        await runs.history.datasets(run.run_id)
        await runs.history.tries(run.run_id)
        await runs.deliveries.of_run(run.run_id)
    await runs.history.newest(RunFilter(agency_id=7, states=(RunState.FAILED,), labels={"team": "billing"}))
    await runs.history.get_all(["published", "cancelled", "waiting", "unknown"])
    await runs.history.replays(["published"])
    await runs.history.last_success(7, "records")
    await runs.queue.backlog()
    await runs.queue.idle()
    await runs.queue.waiting_for_another_config("0" * 32)


async def test_versions_may_take_turns_at_every_call(shared_postgres: PostgresBackend, previous: RunStore) -> None:
    """Whichever begins, runs live as under this version alone, to the bytes of their events."""
    current = shared_postgres.runs
    stories: list[list[str]] = []
    for runs in (current, in_turns(previous, current), in_turns(current, previous)):
        await shared_postgres.empty()
        stories.append([])
        stories[-1].append(await lives(shared_postgres, told(runs, stories[-1])))

    alone, *together = stories
    assert together == [alone, alone]


# -- at once -------------------------------------------------------------------------------------

RUNS = 30


async def attempt(backend: PostgresBackend, runs: RunStore, claim: Claim) -> bool:
    """Work on a run. Returns whether it has succeeded: first attempts end in every other way, too."""
    number = int(claim.run.run_id) if claim.run.attempt == 1 else 0
    if claim.run.state is RunState.RUNNING:
        match number % 5:
            case 1:
                await runs.attempts.retry(claim, FAILURE, delay=NOW)
                return False
            case 2:
                await runs.attempts.hand_back(claim)
                return False
            case 3:  # the worker dies
                await backend.age(claim.run.run_id, PAST_THE_LEASE)
                return False
        await runs.attempts.record_upload(claim, UNPLANNED)
        await runs.attempts.prepare(claim, PLAN, outcome())
        if number % 5 == 4:
            await runs.attempts.release(claim, delay=NOW)
            return False
    assert await runs.attempts.plan(claim) == PLAN
    await runs.attempts.succeed(claim)
    return True


async def test_versions_share_a_queue(shared_postgres: PostgresBackend, previous: RunStore) -> None:
    """Two workers of each: every run succeeds once, and is announced once, whoever had it before."""
    stores = {"previous": previous, "current": shared_postgres.runs}
    asked = [message(str(number), agency_id=1 + number % 6, offset=number) for number in range(RUNS)]
    succeeded: list[tuple[str, str]] = []
    broker = Broker()

    async def work(version: str, worker: str) -> None:
        runs = stores[version]
        await runs.intake.accept_all(asked)
        while not await runs.queue.idle():
            claim = await runs.queue.claim(worker=worker, lease=LEASE, max_runs_per_agency=2)
            if claim is None:
                await runs.outbox.announce(broker.send, limit=5)
            elif await attempt(shared_postgres, runs, claim):
                succeeded.append((version, claim.run.run_id))

    async with asyncio.timeout(60):
        await asyncio.gather(*(work(version, f"{version}-{number}") for version in stores for number in range(2)))

    assert sorted(run_id for _, run_id in succeeded) == sorted(each.run_id for each in asked)
    assert {version for version, _ in succeeded} == set(stores)
    assert Counter(broker.ids) == {f"{each.run_id}:succeeded": 1 for each in asked}


# -- the upgrade itself --------------------------------------------------------------------------


async def answered(call: Callable[[], Awaitable[Any]]) -> Any:
    """Repeat a call, as workers do: statements prepared before a column was added fail once."""
    return await ask(call, clock=SystemClock(), backoff=Backoff.constant(0.01), within=10)


@pytest.mark.parametrize("successor", ["previous", "current"])
async def test_runs_go_on_through_an_upgrade(database: str, schema: str, successor: str) -> None:
    """Whichever version takes them over. A worker that held one goes on, with the statements that it had prepared."""
    async with postgres_backend(database, schema) as backend, postgres_backend(database, schema) as worker:
        async with backend.database.connection() as connection:
            await migrate(connection, schema, migrations=MIGRATIONS[:VERSION])
        before = previous_run_store(worker.database, schema=schema)
        await accepted(before, "queued", agency_id=1)
        await accepted(before, "held", agency_id=2)
        held = await claimed(before, "held")
        await accepted(before, "lost", agency_id=3)
        lost = await claimed(before, "lost")
        decided = await exported(before, "decided", agency_id=4)
        await before.attempts.succeed(await exported(before, "succeeded", agency_id=5))

        async with backend.database.connection() as connection:
            await migrate(connection, schema, migrations=(*MIGRATIONS, NEXT))
        after = backend.runs if successor == "current" else previous_run_store(backend.database, schema=schema)
        broker = Broker()

        await answered(lambda: before.attempts.prepare(held, PLAN, outcome()))
        await answered(lambda: before.attempts.succeed(held))
        for claim in (lost, decided):
            await backend.age(claim.run.run_id, PAST_THE_LEASE)
        for _ in range(3):
            claim = await claimed(after)
            if claim.run.state is RunState.RUNNING:
                await after.attempts.prepare(claim, PLAN, outcome())
            assert await after.attempts.plan(claim) == PLAN
            await after.attempts.succeed(claim)
        await after.outbox.announce(broker.send, limit=9)

    assert sorted(broker.ids) == [f"{each}:succeeded" for each in ("decided", "held", "lost", "queued", "succeeded")]


# -- what the previous version doesn't know ------------------------------------------------------


async def test_schemas_that_the_previous_version_decided_are_unknown(
    shared_postgres: PostgresBackend, previous: RunStore
) -> None:
    """`expect: {schema: same}` then compares with nothing, and not with those of an earlier plan."""
    schema = DatasetSchema.of([("id", "integer")])
    known = replace(outcome(RECORDS), schemas={"records": schema})
    await accepted(previous, "r")
    claim = await claimed(previous)
    await shared_postgres.runs.attempts.prepare(claim, PLAN, known)
    assert await previous.history.datasets("r") == [RECORDS]
    await previous.attempts.void_plan(claim)
    claim = await claimed(previous)
    await previous.attempts.prepare(claim, PLAN, known)
    await previous.attempts.succeed(claim)

    last = await shared_postgres.runs.history.last_success(7, "records")
    assert last is not None
    assert (last.run_id, last.schema) == ("r", None)


async def test_every_query_of_the_previous_version_can_be_planned(shared_postgres: PostgresBackend) -> None:
    """Those of the board and the dead letters, too."""
    async with shared_postgres.database.connection() as connection, connection.transaction():
        for file in FOLDER.iterdir():
            for query in previous_queries(postgres.__name__, file.name).values():
                await connection.prepare(query.sql)


def test_the_previous_version_is_that_before_the_newest_migration() -> None:
    """If this fails after a new migration: `previous/README.md` says how to renew the queries."""
    assert MIGRATIONS[-2].version == VERSION
