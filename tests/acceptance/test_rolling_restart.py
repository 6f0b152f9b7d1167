"""What a cluster does to workers: it replaces one after the other, and stops some that are busy."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise

from tests.acceptance.gate import Gate
from tests.acceptance.kafka_side import Messages
from tests.acceptance.service import HUGE, Service, one_dataset, published_in
from tests.acceptance.serving import Serving
from tests.watching import eventually

LONG = "long-1"
DRAIN = timedelta(seconds=2)
TAKEN_OVER = timedelta(seconds=2)
SETTINGS = {"PIPELINE_WORKER__DRAIN_SECONDS": str(DRAIN.total_seconds()), "PIPELINE_WORKER__MAX_ATTEMPTS": "1"}

BUSY = one_dataset(
    "SELECT n AS id, CASE WHEN $1::bigint = 4 AND n = 6 THEN pg_advisory_xact_lock_shared($1)::text "
    "ELSE pg_sleep(0.08)::text END AS pause FROM generate_series(1, 12) AS n"
)
"""Runs of about a second. That of agency HUGE takes until its gate is opened, longer than any worker may drain."""


def load() -> Iterator[dict[str, object]]:
    """Requests for ten agencies in turn."""
    return ({"agency_id": 101 + number % 10, "run_id": f"short-{number}"} for number in count())


def stopped(service: Service, serve: Serving) -> datetime:
    """Send SIGTERM to a worker with runs in progress, and wait until it has ended in time. Returns when it was sent."""
    eventually(lambda: service.held_by(serve))
    at = datetime.now(UTC)
    serve.signal(signal.SIGTERM)
    serve.ended(seconds=DRAIN.total_seconds() + 6)
    return at


def test_workers_are_replaced_and_removed_under_load(service: Service, messages: Messages) -> None:
    """
    Three workers are replaced, as by a rolling restart, and then the one with the long run is removed, as by a scaler.
    Every run is done once; what can't finish in the drain time continues elsewhere, and the try doesn't count.
    """
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(BUSY))
    requests = load()
    runs: dict[str, int] = {LONG: HUGE}

    def send(number: int) -> None:
        batch = [next(requests) for _ in range(number)]
        runs.update({str(each["run_id"]): int(str(each["agency_id"])) for each in batch})
        messages.send(*batch)

    with Gate(service, HUGE) as gate:
        workers = [service.serve(env=SETTINGS) for _ in range(3)]
        messages.wait_for_members(3)
        messages.send({"agency_id": HUGE, "run_id": LONG})
        told = []
        for old in list(workers):
            new = service.serve(env=SETTINGS)
            eventually(new.is_ready)
            workers.append(new)
            send(20)
            told.append(stopped(service, old))
            workers.remove(old)
        send(20)
        (busy,) = eventually(lambda: [each for each in workers if LONG in service.held_by(each)])
        told.append(stopped(service, busy))
        workers.remove(busy)
        eventually(gate.waiting)
        gate.open()
        messages.wait_for_completions(len(runs))
        messages.wait_for_members(2)
    for worker in workers:
        worker.stop()

    events = {(event.json["run_id"], event.header("ce_id"), event.value) for event in messages.completions()}
    assert {run_id for run_id, _, _ in events} == set(runs)
    assert len(events) == len(runs), "each event has one id and one content, however often it was sent"
    assert messages.dead_letters() == []
    attempts = service.sql("SELECT * FROM pipeline.run_attempts ORDER BY run_id, attempt")
    of_run = {run_id: [each for each in attempts if each["run_id"] == run_id] for run_id in runs}
    for run_id, agency_id in runs.items():
        *before, last = [each["outcome"] for each in of_run[run_id]]
        assert (before, last) == (["handed_back"] * len(before), "succeeded")
        for handed_back, after in pairwise(of_run[run_id]):
            stop = max(at for at in told if at < handed_back["finished_at"])
            assert after["started_at"] - handed_back["finished_at"] < TAKEN_OVER
            assert after["started_at"] - stop < DRAIN + TAKEN_OVER
        assert published_in(service, run_id, agency_id)["attempt"] == len(of_run[run_id])
    assert len(of_run[LONG]) >= 3, "no worker could finish it"
    assert sum(len(each) for each in of_run.values()) <= len(runs) + 3 * len(told), "most finished in the drain time"
    assert (service.pending_uploads(), service.recorded_uploads()) == ([], [])
