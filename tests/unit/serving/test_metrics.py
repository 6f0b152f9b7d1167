"""What a process of `serve` measures."""

from __future__ import annotations

from pipeline_processing.errors import ForeignPrefix
from tests.measured import Measured
from tests.unit.in_memory import refused
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
