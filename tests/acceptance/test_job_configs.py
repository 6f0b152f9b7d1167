"""Workers with different job configs on one history: each exports its own runs only."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime, timedelta

from tests.acceptance.kafka_side import Messages
from tests.acceptance.service import (
    HUGE,
    JOB,
    OTHER,
    SLOW_QUERY,
    SMALL,
    Service,
    completion,
    dataset_rows,
    eventually,
    finished,
    message,
    one_dataset,
    published_in,
)

MASKED = one_dataset(
    "SELECT id, name FROM records WHERE agency_id = $1 ORDER BY id",
    steps=[{"mask": {"columns": ["name"], "using": "sha256"}}],
)
SLOW = one_dataset(SLOW_QUERY)
SHORT_LEASE = {"PIPELINE_WORKER__LEASE_SECONDS": "1.5"}


def test_an_interrupted_run_is_for_its_own_job_config(service: Service, messages: Messages) -> None:
    """`serve` with another job config leaves it alone, and says so; one with another job config can't go on with it."""
    serve = service.serve()
    serve.wait_until_taking()
    process = service.start_run(HUGE, "--run-id", "own", "--config", service.job_config(SLOW))
    eventually(service.pending_uploads)
    process.send_signal(signal.SIGINT)
    assert finished(process).returncode == 130

    eventually(lambda: "notes" in serve.ask("/readyz")[1])
    status, ready = serve.ask("/readyz")
    assert (status, ready["status"]) == (200, "ok")
    assert "1 run(s) wait for a worker with another job config" in ready["notes"][0]
    assert (service.state("own"), service.outcomes("own")) == ("queued", ["handed_back"])
    shown = service.cli("history", "--run-id", "own").stdout
    assert "a worker with its own job config" in shown
    assert str(service.history("own")["config_id"]) in shown
    assert "queued (own job config)" in service.cli("history", "--state", "queued").stdout
    refused = service.run(HUGE, "--run-id", "own")
    assert refused.returncode == 65
    assert "accepted with the job config" in message(refused)
    assert service.listed() == []

    same = service.start_run(HUGE, "--run-id", "own", "--config", service.job_config(SLOW))
    eventually(lambda: service.outcomes("own") == ["handed_back", "running"])
    same.send_signal(signal.SIGINT)
    assert finished(same).returncode == 130
    serve.stop()


def test_an_interrupted_run_whose_id_was_made_up_is_cancelled(service: Service) -> None:
    """Nobody would go on with it, and it would be in the way of `serve --once`."""
    process = service.start_run(HUGE, "--config", service.job_config(SLOW))
    eventually(service.pending_uploads)
    process.send_signal(signal.SIGINT)
    done = finished(process)

    (run,) = service.sql("SELECT run_id, state FROM pipeline.runs")
    assert (done.returncode, run["state"]) == (130, "cancelled")
    assert f"{run['run_id']} was interrupted and cancelled." in done.stderr
    assert (service.pending_uploads(), service.listed()) == ([], [])


def test_what_was_masked_stays_masked(service: Service, messages: Messages) -> None:
    """A run goes on with the job config that it was accepted with, whose identity stands in all that tells of it."""
    own = service.job_config(MASKED)
    done = service.run(HUGE, "--run-id", "masked", "--config", own)
    told = completion(done)
    manifest = published_in(service, "masked", HUGE)

    assert [entry["dataset"] for entry in manifest["entries"]] == ["records"]
    assert all(len(row["name"]) == 64 for row in dataset_rows(service, manifest, "records"))
    assert told["config_id"] == manifest["config_id"] == service.history("masked")["config_id"]
    (event,) = service.events("masked")
    assert json.loads(event["value"])["config_id"] == told["config_id"]


def test_rolling_out_another_job_config(service: Service, messages: Messages) -> None:
    """
    Queued runs of messages follow the job config of the worker that claims them. A run that was decided with the old
    one is published as it was decided, by a worker with the new one.
    """
    old = service.job_config(MASKED)
    kill = service.trapped("SIGKILL@prepare", OTHER, "--run-id", "decided", "--config", old, env=SHORT_LEASE)
    assert finished(kill).returncode == -signal.SIGKILL
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(old)
    accepting = service.serve(env={"PIPELINE_WORKER__MAX_RUNS_PER_AGENCY": "1"})
    messages.wait_for_members(1)
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    messages.send({"agency_id": SMALL, "run_id": "queued", "not_before": later})
    eventually(lambda: service.state("queued") == "queued")
    accepting.stop()
    service.sql("UPDATE pipeline.runs SET not_before = now() WHERE run_id = 'queued'")
    was = service.history("queued")["config_id"]
    assert was == service.history("decided")["config_id"]

    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(JOB))
    new = service.serve()
    messages.wait_for_completions(1, run_id="queued")
    eventually(lambda: service.state("decided") == "succeeded")
    new.stop()

    decided, queued = published_in(service, "decided", OTHER), published_in(service, "queued", SMALL)
    assert decided["config_id"] == was
    assert all(len(row["name"]) == 64 for row in dataset_rows(service, decided, "records"))
    assert queued["config_id"] == service.history("queued")["config_id"] != was
    assert {entry["dataset"] for entry in queued["entries"]} == {"records", "documents", "payments"}
