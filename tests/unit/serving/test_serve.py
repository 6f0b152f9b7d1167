"""The whole service: requests in, runs done, events out; starting and stopping in order."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from pipeline_processing.errors import (
    AccessDenied,
    DestinationUnavailable,
    ForeignPrefix,
    HistoryUnavailable,
    KafkaUnavailable,
)
from tests.unit.in_memory import incoming, refused
from tests.unit.served import REQUESTS, Served
from tests.unit.virtual_clock import EPOCH, in_virtual_time


@in_virtual_time
async def test_a_request_is_done_and_announced() -> None:
    """From message to event."""
    served = Served()
    async with served.running():
        served.ask(run_id="r")
        await served.clock.sleep(5)

    assert await served.states() == {"r": "succeeded"}
    assert [event.header("ce_type") for event in served.completions("r")] == [b"agency.run.succeeded"]


@in_virtual_time
async def test_a_finished_run_that_is_asked_for_again_only_sends_its_event_again() -> None:
    """Failed ones included: the same id, the same bytes, no work."""
    served = Served()
    served.service.between.on_next("batch", refused(ForeignPrefix("not ours")))
    async with served.running():
        for _ in range(3):
            served.ask(run_id="failed")
            await served.clock.sleep(5)
        for _ in range(3):
            served.ask(run_id="done")
            await served.clock.sleep(5)

    assert await served.states() == {"failed": "failed", "done": "succeeded"}
    for run_id in ("failed", "done"):
        events = served.completions(run_id)
        assert len(events) == 3
        assert len({(event.key, event.value, event.headers) for event in events}) == 1
        assert len(served.service.outcomes(run_id)) == 1


@in_virtual_time
async def test_a_prefix_of_somebody_elses_is_found_before_anything_is_taken() -> None:
    """Wrong settings end the process, with the error that says so."""
    served = Served()
    served.service.between.on_every("verify_installation", refused(ForeignPrefix("not ours")))
    served.ask(run_id="r")
    with pytest.raises(ForeignPrefix):
        await served.whole.run(served.stop, served.hurry, once=False)

    assert await served.states() == {}
    assert await served.committed() == 0


@pytest.mark.parametrize("method", ["installation_id", "verify_installation"])
@in_virtual_time
async def test_a_server_that_hangs_at_the_start_doesnt_hold_up_stopping(method: str) -> None:
    """There is nothing to finish: it ends at once."""
    served = Served()
    served.service.between.on_every(method, lambda call: asyncio.Event().wait())
    running = asyncio.create_task(served.whole.run(served.stop, served.hurry, once=False))
    await served.clock.sleep(5)
    served.stop.set()
    await running
    assert served.clock.monotonic() == 5


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("installation_id", HistoryUnavailable("gone")),
        ("verify_installation", DestinationUnavailable("gone")),
    ],
)
@in_virtual_time
async def test_servers_that_are_away_at_the_start_are_waited_for(method: str, error: Exception) -> None:
    """Not ready meanwhile, and alive."""
    served = Served()
    served.service.between.on_every(method, refused(error))
    async with served.running():
        served.ask(run_id="r")
        await served.clock.sleep(300)
        assert served.health.not_alive() == []
        assert "starting" in served.health.not_ready()
        served.service.between.on_every(method, None)
        await served.clock.sleep(5)
        assert served.health.not_ready() == []

    assert await served.states() == {"r": "succeeded"}


@in_virtual_time
async def test_told_to_stop_before_it_has_begun_it_stops() -> None:
    """Also while it waits for a server."""
    served = Served()
    served.service.between.on_every("installation_id", refused(HistoryUnavailable("gone")))
    async with served.running():
        await served.clock.sleep(10)


@in_virtual_time
async def test_runs_go_on_without_kafka_and_are_announced_when_it_is_back() -> None:
    """The run table is the truth; the door may be shut."""
    served = Served()
    await served.service.runs.intake.accept(incoming("r"))
    served.broker.outage = True
    async with served.running():
        await served.clock.sleep(60)
        assert await served.states() == {"r": "succeeded"}
        served.broker.outage = False
        await served.clock.sleep(5)

    assert len(served.completions("r")) == 1


@in_virtual_time
async def test_the_events_of_the_last_runs_go_out_before_it_ends() -> None:
    """Stopping is in order: intake and runs first, then the outbox."""
    served = Served()
    going = asyncio.Event()

    async def held_up(call: object) -> object:
        await going.wait()
        return await call()  # type: ignore[operator]

    served.service.between.on_next("batch", held_up)
    async with served.running():
        served.ask(run_id="r")
        await served.clock.sleep(5)
        served.stop.set()
        await served.clock.sleep(5)
        assert "stopping" in served.health.not_ready()
        going.set()

    assert len(served.completions("r")) == 1


@in_virtual_time
async def test_a_part_that_dies_ends_the_process_and_hands_its_runs_back() -> None:
    """Half a service is worse than none."""
    served = Served()

    async def for_ever(call: object) -> None:
        await asyncio.Event().wait()

    served.service.between.on_every("batch", for_ever)
    await served.service.runs.intake.accept(incoming("r"))
    served.of_kafka.on_every("poll", refused(AccessDenied("not allowed")))
    with pytest.raises(ExceptionGroup) as caught:
        await served.whole.run(served.stop, served.hurry, once=False)

    assert [type(error) for error in caught.value.exceptions] == [AccessDenied]
    assert served.service.outcomes() in ([], ["handed_back"])


# -- once ----------------------------------------------------------------------------------------


@in_virtual_time
async def test_once_ends_when_all_that_was_there_is_done() -> None:
    """Accepted, done, retried and announced; also if runs fail."""
    served = Served()
    served.service.between.on_next("snapshot", refused(DestinationUnavailable("gone for now")))
    served.service.between.on_next("batch", refused(ForeignPrefix("not ours")))
    for number in range(20):
        served.ask(run_id=f"r{number}")
    served.ask(b"{")

    await served.whole.run(served.stop, served.hurry, once=True)

    states = await served.states()
    assert len(states) == 20
    assert sorted(states.values()) == ["failed"] + ["succeeded"] * 19
    assert all(len(served.completions(run_id)) == 1 for run_id in states)
    assert await served.committed() == 21


@in_virtual_time
async def test_once_leaves_a_run_that_is_for_later() -> None:
    """It isn't due, and nobody waits for it."""
    served = Served()
    served.ask(run_id="later", not_before=(EPOCH + timedelta(hours=1)).isoformat())
    served.ask(run_id="now")

    await served.whole.run(served.stop, served.hurry, once=True)

    assert await served.states() == {"later": "queued", "now": "succeeded"}
    assert served.clock.monotonic() < 60


@in_virtual_time
async def test_once_with_nothing_to_do_ends_at_once() -> None:
    """An empty topic, an empty history."""
    served = Served()
    await served.whole.run(served.stop, served.hurry, once=True)
    assert served.clock.monotonic() < 5


@in_virtual_time
async def test_once_passes_what_is_no_record() -> None:
    """Marks of transactions at the end, and a start that retention has moved: neither will ever be given."""
    served = Served()
    served.ask(run_id="r")
    partition = served.broker.partition(REQUESTS, 0)
    partition.end += 2
    trimmed = served.broker.partition(REQUESTS, 1)
    trimmed.start = trimmed.end = 5

    await served.whole.run(served.stop, served.hurry, once=True)

    assert (await served.states())["r"] == "succeeded"


@in_virtual_time
async def test_once_gives_up_on_a_server_that_stays_away() -> None:
    """After a minute, with the error that names it: whoever started it waits for its end."""
    served = Served()
    served.broker.outage = True
    with pytest.raises(ExceptionGroup) as caught:
        await served.whole.run(served.stop, served.hurry, once=True)

    assert [type(error) for error in caught.value.exceptions] == [KafkaUnavailable]
    assert 60 <= served.clock.monotonic() < 90
