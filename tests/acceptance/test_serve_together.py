"""
Several `serve` on one group and one history: whoever dies, stands still, comes or goes, each run is done once.

LONG_RUN_SECONDS sets how long the long run takes, at least; 300 will do for a trial by hand.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

from confluent_kafka import Consumer

from tests.acceptance.gate import GATED, Gate
from tests.acceptance.kafka_side import Messages
from tests.acceptance.service import (
    HUGE,
    OTHER,
    PREFIX,
    SMALL,
    Service,
    eventually,
    is_stopped,
    one_dataset,
    published,
    published_in,
)
from tests.acceptance.serving import Serving

LONG_RUN_SECONDS = float(os.environ.get("LONG_RUN_SECONDS", "25"))
REBALANCES = 10

BUSY = one_dataset(
    "SELECT n AS id, repeat(md5(n::text), CASE WHEN $1::bigint % 4 = 0 THEN 4000 ELSE 1 END) AS body, "
    "pg_sleep(0.01)::text AS pause FROM generate_series(1, 12) AS n"
)
"""Runs of about 0.2 s; those of every fourth agency have an upload of more than 1 MiB."""


def begun_by(service: Service, serve: Serving) -> int:
    """How many attempts it has begun."""
    (row,) = service.sql("SELECT count(*) AS n FROM pipeline.run_attempts WHERE worker LIKE $1", f"%:{serve.pid}:%")
    return int(row["n"])


def finished_runs(service: Service) -> int:
    (row,) = service.sql("SELECT count(*) AS n FROM pipeline.runs WHERE finished_at IS NOT NULL")
    return int(row["n"])


def stopped_at_work(service: Service, serve: Serving) -> list[str]:
    """Stop it with SIGSTOP while it has runs in progress: these."""

    def caught() -> list[str]:
        eventually(lambda: service.held_by(serve))
        serve.signal(signal.SIGSTOP)
        eventually(lambda: is_stopped(serve.process))
        if not (held := service.held_by(serve)):
            serve.signal(signal.SIGCONT)
        return held

    return eventually(caught)


def etags(service: Service) -> dict[str, tuple[str, object]]:
    """What each object is, and since when."""
    pages = service.s3.get_paginator("list_objects_v2").paginate(Bucket=service.bucket)
    return {each["Key"]: (each["ETag"], each["LastModified"]) for page in pages for each in page["Contents"]}


def test_a_worker_that_dies_and_one_that_stands_still(service: Service, messages: Messages) -> None:
    """120 runs of 20 agencies: every run has one manifest, one content of its event, and a history that agrees."""
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(BUSY))
    runs = {f"shared-{number}": 101 + number % 20 for number in range(120)}
    dies, stands_still, stays = (service.serve(env={"PIPELINE_WORKER__LEASE_SECONDS": "4"}) for _ in range(3))
    messages.wait_for_members(3)
    messages.send(*[{"agency_id": agency_id, "run_id": run_id} for run_id, agency_id in runs.items()])
    eventually(lambda: all(begun_by(service, serve) >= 6 for serve in (dies, stands_still, stays)), 60)

    late = stopped_at_work(service, stands_still)
    eventually(lambda: service.held_by(dies))
    dies.kill()
    assert finished_runs(service) < 90, "too late to show anything"
    eventually(lambda: finished_runs(service) == len(runs), 240)
    before = etags(service)
    stands_still.signal(signal.SIGCONT)

    # It finds its leases lost, and goes on as a member of the group and as a worker.
    eventually(lambda: len(stands_still.said("attempt ended")) >= begun_by(service, stands_still))
    messages.send({"agency_id": SMALL, "run_id": "afterwards-1"})
    messages.wait_for_completions(1, run_id="afterwards-1")
    eventually(lambda: {event.json["run_id"] for event in messages.completions()} == {*runs, "afterwards-1"})
    for serve in (stands_still, stays):
        serve.stop()

    after = service.objects()
    assert before.items() <= etags(service).items(), "the late worker changed nothing"
    seen = {key.removeprefix(f"{PREFIX}/"): stored for key, stored in after.items()}
    contents = {(event.json["run_id"], event.header("ce_id"), event.value) for event in messages.completions()}
    told = {run_id: value for run_id, _, value in contents}
    assert len(contents) == len(told), "each event has one id and one content, however often it was sent"
    completions = {event.json["run_id"]: event.json for event in messages.completions()}
    again = 0
    for run_id, agency_id in runs.items():
        manifest = published(seen, run_id, agency_id, service.destination)
        history, told_of = service.history(run_id), completions[run_id]
        assert history["state"] == told_of["state"] == "succeeded"
        assert history["attempt"] == told_of["attempt"] == manifest["attempt"]
        assert history["rows_written"] == told_of["rows_written"] == manifest["rows_written"] == 12
        assert history["manifest_url"] == told_of["manifest"]
        outcomes = service.outcomes(run_id)
        assert outcomes == ["lost"] * (len(outcomes) - 1) + ["succeeded"]
        again += len(outcomes) > 1
    assert len(late) <= again <= 8, "what the two had in progress, and no other, was tried again"

    assert service.cli("gc").returncode == 0
    assert (service.pending_uploads(), service.recorded_uploads()) == ([], [])


def test_a_worker_that_stands_still_in_the_middle_of_a_claim(service: Service, messages: Messages) -> None:
    """What it has locked in the history is free again after a while, and the agency's runs go on elsewhere."""
    stands_still = service.serve()
    stands_still.wait_until_taking()
    soon = datetime.now(UTC) + timedelta(seconds=3)
    messages.send({"agency_id": SMALL, "run_id": "claimed-1", "not_before": soon.isoformat()})
    eventually(lambda: service.state("claimed-1") == "queued")
    # The claim has locked the agency and the run, and comes upon a row of ours that isn't committed.
    service.sql("BEGIN")
    service.sql("INSERT INTO pipeline.run_attempts (run_id, attempt, fence, worker) VALUES ('claimed-1', 1, 0, 'us')")
    eventually(lambda: service.sql("SELECT FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"))
    stands_still.signal(signal.SIGSTOP)
    eventually(lambda: is_stopped(stands_still.process))
    service.sql("ROLLBACK")  # now the claim can be done, but nobody ends its transaction

    other = service.serve()
    (event,) = messages.wait_for_completions(1, run_id="claimed-1", seconds=25)
    stands_still.signal(signal.SIGCONT)
    for serve in (stands_still, other):
        serve.stop()

    assert event.json["state"] == "succeeded"
    assert service.outcomes("claimed-1") == ["succeeded"]


def test_an_agency_with_many_runs_delays_others_by_those_in_progress(service: Service, messages: Messages) -> None:
    """1,000 queued runs of one agency, and then one of another: at most the runs in progress begin before it."""
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(BUSY))
    at_once = 3
    several = {"PIPELINE_WORKER__MAX_RUNS_PER_AGENCY": str(at_once), "PIPELINE_WORKER__CONCURRENCY": str(at_once)}
    serve = service.serve(env=several)
    messages.send(*[{"agency_id": SMALL, "run_id": f"many-{number}"} for number in range(1000)], partition=0)
    messages.wait_until_taken()

    messages.send({"agency_id": OTHER, "run_id": "single-1"}, partition=0)
    messages.wait_for_completions(1, run_id="single-1")
    serve.signal(signal.SIGTERM)
    single = service.history("single-1")
    serve.ended()

    (counted,) = service.sql(
        "SELECT count(*) FILTER (WHERE started_at > $1 AND started_at < $2) AS delaying, "
        "count(*) FILTER (WHERE started_at IS NULL) AS left FROM pipeline.runs WHERE agency_id = $3",
        single["queued_at"],
        single["started_at"],
        SMALL,
    )
    assert counted["delaying"] <= at_once
    assert counted["left"] > 500, "too few were waiting to show anything"


def test_a_long_run_amid_rebalances(service: Service, messages: Messages) -> None:
    """
    Far longer than the session timeout of 10 s, with members coming and going: it is done once, by a worker that never
    leaves the group, and requests are taken meanwhile.
    """
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(GATED))
    began_at = time.monotonic()
    with Gate(service, HUGE) as gate:
        messages.send({"agency_id": HUGE, "run_id": "long-1"})
        serve = service.serve(env={"PIPELINE_WORKER__LEASE_SECONDS": "3"})
        gate.wait_for_run()
        (member,) = messages.wait_for_members(1)
        for number in range(REBALANCES // 2):
            # One that joins and leaves: two rebalances.
            if number == 0:
                other = service.serve()
                messages.wait_for_members(2)
                other.stop()
            else:
                foreign = Consumer(
                    {
                        "bootstrap.servers": messages.bootstrap_servers,
                        "group.id": messages.group,
                        "enable.auto.commit": False,
                        "partition.assignment.strategy": "roundrobin",
                    }
                )
                foreign.subscribe([messages.requests_topic])
                eventually(lambda f=foreign: f.consume(1, 0.1) or f.assignment())
                assert len(messages.members()) == 2
                foreign.close()
            assert list(messages.wait_for_members(1)) == [member], "it never left the group"
            messages.send({"agency_id": SMALL, "run_id": f"meanwhile-{number}"})
            messages.wait_for_completions(1, run_id=f"meanwhile-{number}")
        eventually(lambda: time.monotonic() - began_at > LONG_RUN_SECONDS, LONG_RUN_SECONDS + 10)
        assert list(messages.wait_for_members(1)) == [member], "it never left the group"
        assert len(serve.said("partitions assigned")) > REBALANCES
        assert service.state("long-1") == "running"
        gate.open()
        (event,) = messages.wait_for_completions(1, run_id="long-1")
        serve.stop()

    assert (event.json["state"], event.json["attempt"]) == ("succeeded", 1)
    assert event.json["duration_ms"] > (LONG_RUN_SECONDS - 10) * 1000
    assert service.outcomes("long-1") == ["succeeded"]
    assert Counter(event.json["run_id"] for event in messages.completions()).most_common(1)[0][1] == 1
    assert serve.complaints() == []
    published_in(service, "long-1", HUGE)
