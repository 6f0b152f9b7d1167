"""Requests in batches: each gets its run or why it can't be one, and no two intakes ever block each other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from pipeline_processing.errors import (
    ConflictingRequest,
    DatabaseMisconfigured,
    InternalError,
    InvalidRequest,
    RequestError,
)
from pipeline_processing.history.postgres.migrate import MIGRATIONS, _apply, migrate
from pipeline_processing.model import Run, RunState
from pipeline_processing.runs.store import Incoming, RunStore
from tests.contract.run_store.conftest import Backend, PostgresBackend, postgres_backend
from tests.contract.run_store.helpers import FAILURE, LEASE, accepted, claimed, finished, incoming, message, standing


async def _sent(events: object) -> None:
    """What a broker does that has stored them."""


def plain(answers: list[Run | RequestError]) -> list[Any]:
    """Answers without what differs from one history to the other."""
    return [
        type(answer) if isinstance(answer, RequestError) else (answer.run_id, answer.state, answer.request)
        for answer in answers
    ]


# -- one batch -----------------------------------------------------------------------------------


async def test_a_batch_gives_each_request_its_run(runs: RunStore) -> None:
    """In the order of the requests, each as it is in the history then."""
    requests = [message(f"r-{number}", agency_id=1 + number % 3, offset=number) for number in range(50)]

    answers = await runs.intake.accept_all(requests)

    assert all(isinstance(answer, Run) and answer.state is RunState.QUEUED for answer in answers)
    assert [getattr(answer, "offset", None) for answer in answers] == list(range(50))
    for request, answer in zip(requests, answers, strict=True):
        assert answer == await runs.history.get(request.run_id)


async def test_a_batch_is_queued_in_its_order(runs: RunStore) -> None:
    """By age, whatever the run ids sort like."""
    run_ids = [f"r-{number:02}" for number in reversed(range(20))]
    await runs.intake.accept_all([incoming(run_id) for run_id in run_ids])

    assert [(await claimed(runs)).run.run_id for _ in run_ids] == run_ids


async def test_an_empty_batch_is_nothing(backend: Backend) -> None:
    """An intake may have had nothing but dead letters."""
    before = await backend.everything()

    assert await backend.runs.intake.accept_all([]) == []
    assert await backend.everything() == before


async def test_the_first_of_several_with_one_id_counts(runs: RunStore) -> None:
    """The same request again is the same run, another one is refused."""
    first, other = incoming("r", agency_id=1), incoming("r", agency_id=2)

    answers = await runs.intake.accept_all([first, other, first])

    assert answers[0] == answers[2] == await standing(runs)
    assert isinstance(answers[1], ConflictingRequest)
    assert (await standing(runs)).agency_id == 1
    assert len(await runs.history.newest()) == 1


async def test_a_request_that_cannot_be_stored_stops_no_other(runs: RunStore) -> None:
    """Not even one with its own id: it never was a run."""
    broken = incoming("r", params={"name": "a\0b"})

    answers = await runs.intake.accept_all([incoming("before"), broken, incoming("r"), incoming("after")])

    assert isinstance(answers[1], InvalidRequest)
    assert [run.run_id for run in answers if isinstance(run, Run)] == ["before", "r", "after"]
    assert len(await runs.history.newest()) == 3


async def test_values_that_the_database_refuses_stop_no_other(on_postgres: PostgresBackend) -> None:
    """Whichever values those are: each such request is told apart, however many there are, and all others are runs."""
    runs = on_postgres.runs
    await on_postgres.execute("ALTER TABLE runs ADD CHECK (requested_by <> 'nobody')")
    requests = [
        incoming(f"r-{number:02}", requested_by="nobody" if number in (0, 7, 8, 19) else "x") for number in range(20)
    ]
    requests[11] = replace(requests[11], trace_id="half a pair \ud800")  # which can't even be sent

    answers = await runs.intake.accept_all(requests)

    refused = {number: str(answer) for number, answer in enumerate(answers) if isinstance(answer, RequestError)}
    assert refused.keys() == {0, 7, 8, 11, 19}
    assert "violates check constraint" in refused[0]
    assert {run.run_id for run in await runs.history.newest()} == {
        request.run_id for number, request in enumerate(requests) if number not in refused
    }
    with pytest.raises(InvalidRequest, match="can't store the request"):
        await runs.intake.accept(requests[0])


@pytest.fixture
async def in_latin1(postgres: Any, schema: str) -> AsyncIterator[PostgresBackend]:
    """A history that was set up before encodings were looked at."""
    name = f"latin1_{uuid4().hex}"
    connection = await asyncpg.connect(postgres.dsn())
    try:
        await connection.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        async with postgres_backend(postgres.dsn(name), schema) as backend:
            async with backend.database.connection() as own, own.transaction():
                for migration in MIGRATIONS:
                    await _apply(own, schema, migration)
            yield backend
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


async def test_text_that_the_encoding_lacks_stops_no_other(in_latin1: PostgresBackend) -> None:
    """And whoever starts there is told what is wrong with the database, as by `migrate`."""
    answers = await in_latin1.runs.intake.accept_all([incoming("a"), incoming("b", requested_by="日本"), incoming("c")])

    assert [type(answer) for answer in answers] == [Run, InvalidRequest, Run]
    with pytest.raises(DatabaseMisconfigured, match=r"LATIN1.*ENCODING 'UTF8'"):
        await in_latin1.runs.history.installation_id()
    async with in_latin1.database.connection() as connection:
        with pytest.raises(DatabaseMisconfigured, match="LATIN1"):
            await migrate(connection, "another")


@pytest.mark.parametrize("tracestate", ["a\0b", "half \ud800 a pair"], ids=["nul", "surrogate"])
async def test_a_tracestate_that_cannot_be_stored_is_dropped(runs: RunStore, tracestate: str) -> None:
    """It is somebody else's, and no reason to refuse a request."""
    run = await runs.intake.accept(replace(incoming(), tracestate=tracestate))

    assert run.tracestate is None
    assert await runs.history.get("r") == run


async def test_a_batch_is_as_good_as_one_at_a_time(backend: Backend) -> None:
    """With all that may be in it: the same answers."""
    kinds = [
        incoming("new"),
        incoming("new", agency_id=8),
        incoming("queued"),
        incoming("queued", agency_id=8),
        message("failed"),
        message("failed", agency_id=8),
        incoming("failed", params={"a": "\0"}),
        incoming("broken", params={"a": "\ud800"}),
    ]
    choose = random.Random(7)
    for number in range(10):
        await accepted(backend.runs, f"queued-{number}-a")
        await accepted(backend.runs, f"queued-{number}-b")
        await finished(backend.runs, f"failed-{number}-a")
        await finished(backend.runs, f"failed-{number}-b")
        batch = [choose.choice(kinds) for _ in range(12)]

        def named(suffix: str, batch: list[Incoming] = batch, number: int = number) -> list[Incoming]:
            return [replace(each, run_id=f"{each.run_id}-{number}-{suffix}") for each in batch]

        at_once = await backend.runs.intake.accept_all(named("a"))
        one_by_one = [answer for each in named("b") for answer in await backend.runs.intake.accept_all([each])]

        assert [str(answer).replace("-a", "-b") for answer in plain(at_once)] == [str(a) for a in plain(one_by_one)]


async def test_a_large_batch_is_one_batch(runs: RunStore) -> None:
    """Thousands of requests after an outage."""
    requests = [incoming(f"r-{number}", agency_id=1 + number % 700) for number in range(3000)]

    answers = await runs.intake.accept_all(requests)

    assert len({answer.run_id for answer in answers if isinstance(answer, Run)}) == 3000
    assert len(await runs.history.newest(limit=None)) == 3000


async def test_a_batch_that_fails_for_no_value_is_not_taken_apart(on_postgres: PostgresBackend) -> None:
    """No request of it is to blame: nothing is written, and it comes again."""
    await on_postgres.execute(
        "CREATE FUNCTION simulated() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
        "IF NEW.run_id = 'r-1' THEN RAISE 'simulated'; END IF; RETURN NEW; END$$"
    )
    await on_postgres.execute(
        "CREATE TRIGGER simulated BEFORE INSERT ON runs FOR EACH ROW EXECUTE FUNCTION simulated()"
    )

    with pytest.raises(InternalError, match="simulated"):
        await on_postgres.runs.intake.accept_all([incoming(f"r-{number}") for number in range(3)])
    assert await on_postgres.runs.history.newest() == []


# -- several at once -----------------------------------------------------------------------------


async def test_batches_that_overlap_never_block_each_other(runs: RunStore) -> None:
    """After a rebalance two intakes have the same messages, in any order, of agencies that nobody has seen before."""
    choose = random.Random(1)
    for round_ in range(8):
        requests = [message(f"r-{round_}-{number}", agency_id=1 + 40 * round_ + number % 40) for number in range(120)]

        async def intake(requests: list[Incoming] = requests) -> list[Run | RequestError]:
            mine = choose.sample(requests, 90)
            if choose.random() < 0.5:
                return await runs.intake.accept_all(mine)
            return [await runs.intake.accept(each) for each in mine[:10]]

        async with asyncio.timeout(30):
            answers = await asyncio.gather(*(intake() for _ in range(8)))

        given = [answer for some in answers for answer in some]
        assert all(isinstance(answer, Run) for answer in given)
        queued_at = {(answer.run_id, answer.queued_at) for answer in given if isinstance(answer, Run)}
        assert len(queued_at) == len({run_id for run_id, _ in queued_at})  # one run, however many asked for it


async def test_intakes_workers_and_announcements_never_block_each_other(runs: RunStore) -> None:
    """The same requests come again and again while their runs are claimed, finish, and are told of."""
    choose = random.Random(2)
    requests = [message(f"r-{number}", agency_id=1 + number % 7) for number in range(30)]
    failed: set[str] = set()

    def goes_on() -> bool:
        return len(failed) < len(requests)

    async def intake() -> None:
        while goes_on():
            answers = await runs.intake.accept_all(choose.sample(requests, 20))
            assert all(isinstance(answer, Run) for answer in answers)
            await asyncio.sleep(0)

    async def work() -> None:
        while goes_on():
            claim = await runs.queue.claim(worker="w", lease=LEASE, max_runs_per_agency=2)
            if claim is not None:
                failed.add((await runs.attempts.fail(claim, FAILURE)).run_id)
            await asyncio.sleep(0)

    async def announce() -> None:
        while goes_on():
            await runs.outbox.announce(_sent, limit=choose.choice((3, 30)))
            await asyncio.sleep(0)

    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for each in (intake, intake, intake, work, work, announce, announce):
            group.create_task(each())


async def test_one_id_for_two_requests_at_once_is_one_run(runs: RunStore) -> None:
    """Whichever comes first has it; the other learns of that."""
    for number in range(20):
        run_id = f"r-{number}"
        asked = [incoming(run_id, agency_id=1), incoming(run_id, agency_id=2)]

        answers = await asyncio.gather(*(runs.intake.accept_all([each, incoming(f"{run_id}-too")]) for each in asked))

        ends = [answer[0] for answer in answers]
        (run,) = (each for each in ends if isinstance(each, Run))
        assert sum(isinstance(each, ConflictingRequest) for each in ends) == 1
        assert run == await standing(runs, run_id)
        assert answers[0][1] == answers[1][1]


async def test_a_claim_under_way_keeps_no_intake(on_postgres: PostgresBackend) -> None:
    """A claim holds its agency's row; more requests for that agency are none of its business."""
    await accepted(on_postgres.runs)
    async with on_postgres.database.connection() as connection, connection.transaction():
        await connection.execute("UPDATE agencies SET last_claimed_at = clock_timestamp()")
        async with asyncio.timeout(10):
            await on_postgres.runs.intake.accept_all([incoming(f"r-{number}") for number in range(3)])
