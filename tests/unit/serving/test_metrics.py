"""What a process of `serve` measures."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from pipeline_processing.errors import ForeignPrefix, HistoryUnavailable, KafkaUnavailable, SourceBusy
from pipeline_processing.usage import current_usage
from tests.measured import Measured
from tests.unit.in_memory import Call, Service, after, refused
from tests.unit.served import Served
from tests.unit.virtual_clock import in_virtual_time


@in_virtual_time
async def test_runs_are_counted_by_outcome_and_error() -> None:
    """With their attempts, rows, bytes, and how long they and their stages took."""
    measured = Measured()
    served = Served(metrics=measured.metrics)
    served.service.between.on_next("batch", refused(ForeignPrefix("not ours")))
    async with served.running():
        served.ask(run_id="failed")
        await served.clock.sleep(5)
        served.ask(run_id="done")
        await served.clock.sleep(5)

    assert measured["pipeline.runs.finished"] == {("failed", "foreign_prefix"): 1, ("succeeded", ""): 1}
    attempts = {outcome: count for outcome, count in measured["pipeline.attempts"].items() if count}
    assert attempts == {("failed",): 1, ("succeeded",): 1}
    assert measured["pipeline.run.duration"] == {("failed",): 1, ("succeeded",): 1}
    assert set(measured["pipeline.stage.duration"]) == {("source",), ("steps",), ("format",), ("upload",)}
    run = await served.service.runs.history.get("done")
    assert run is not None
    rows = measured["pipeline.run.rows"]
    assert (rows["read",], rows["written",]) == (run.rows_read, run.rows_written)
    assert measured["pipeline.run.bytes"] == {(): run.bytes_written}


@in_virtual_time
async def test_the_backlog_has_no_values_while_the_history_is_away() -> None:
    """They would be old ones."""
    measured = Measured()
    served = Served(metrics=measured.metrics)
    async with served.running():
        served.ask(run_id="later", not_before="2100-01-01T00:00:00Z")
        await served.clock.sleep(15)
        assert measured["pipeline.runs.current"]["queued",] == 1
        assert measured["pipeline.outbox.unsent"] == {(): 0}

        served.service.between.on_next("backlog", refused(HistoryUnavailable("gone")))
        await served.clock.sleep(10)
        assert measured["pipeline.runs.current"] == {}

        await served.clock.sleep(10)
        assert measured["pipeline.runs.current"]["queued",] == 1


@in_virtual_time
async def test_renewals_and_what_ends_an_attempt_are_counted() -> None:
    """A lease that another worker takes is a loss; a run that is cancelled isn't."""
    measured = Measured()
    served = Served(metrics=measured.metrics)
    going = asyncio.Event()

    async def held_up(call: Call) -> object:
        await going.wait()
        return await call()

    served.service.between.on_every("batch", held_up)
    async with served.running():
        for run_id in ("cancelled", "lost"):
            served.ask(run_id=run_id, agency_id=len(run_id))
        await served.clock.sleep(25)
        await served.service.runs.queue.cancel("cancelled")
        served.service.table.records["lost"].change(fence=99)
        await served.clock.sleep(5)
        going.set()

    assert measured["pipeline.lease.renewals"]["ok",] >= 2
    assert measured["pipeline.lease.losses"] == {(): 1}
    assert measured["pipeline.attempts"]["lost",] == 1
    assert measured["pipeline.attempts"]["cancelled",] == 1
    assert measured["pipeline.runs.finished"] == {("cancelled", ""): 1}


@in_virtual_time
async def test_a_lease_that_ends_while_the_history_is_away_is_lost() -> None:
    """The worker can't ask who holds the run now."""
    measured = Measured()
    service = Service(metrics=measured.metrics)
    await service.accept()
    for each in ("prepare", "renew", "get"):
        service.between.on_every(each, refused(HistoryUnavailable("gone")))
    with pytest.raises(HistoryUnavailable):
        await service.attempt()

    assert measured["pipeline.lease.losses"] == {(): 1}
    assert measured["pipeline.attempts"] == {("lost",): 1}


@in_virtual_time
async def test_requests_that_send_a_part_again_never_fall() -> None:
    """Though one part wasn't sent at all: Prometheus takes a lower value for a restart, and counts all of it again."""
    measured = Measured()
    service = Service(metrics=measured.metrics)
    await service.accept()

    async def parts(requests: int) -> None:
        usage = current_usage()
        usage.part_retries -= 1
        for _ in range(requests):
            usage.count_s3_request(is_part=True)

    for requests in (3, 0):
        service.between.on_next("write", after(partial(parts, requests)))
        service.between.on_next("seal", refused(SourceBusy("busy")))
        await service.attempt()
        await service.clock.sleep(60)

    assert measured["pipeline.part.retries"] == {(): 2}


@in_virtual_time
async def test_the_lag_is_not_known_while_the_history_is_away() -> None:
    """Requests that wait aren't looked for meanwhile: the last number would be an old one."""
    measured = Measured()
    served = Served(metrics=measured.metrics)
    async with served.taking():
        await served.clock.sleep(15)
        assert measured["pipeline.intake.lag"] == {("requests",): 0}

        served.service.between.on_every("accept_all", refused(HistoryUnavailable("gone")))
        served.ask(run_id="r")
        await served.clock.sleep(15)
        assert measured["pipeline.intake.lag"] == {}

        served.service.between.on_every("accept_all", None)
        await served.clock.sleep(15)
        assert measured["pipeline.intake.lag"] == {("requests",): 0}


@in_virtual_time
async def test_a_dead_letter_counts_once_it_is_stored() -> None:
    """After a stop in an outage, another process takes the message again."""
    for is_away in (True, False):
        measured = Measured()
        served = Served(metrics=measured.metrics)
        if is_away:
            served.of_kafka.on_every("send", refused(KafkaUnavailable("gone")))
        async with served.taking():
            served.ask(b"{")
            await served.clock.sleep(5)
        assert measured["pipeline.dead_letters"]["invalid_json",] == (not is_away)
