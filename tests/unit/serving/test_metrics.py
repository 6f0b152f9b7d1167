"""What a process of `serve` measures."""

from __future__ import annotations

import asyncio

from pipeline_processing.errors import ForeignPrefix, HistoryUnavailable
from tests.measured import Measured
from tests.unit.in_memory import Call, refused
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
