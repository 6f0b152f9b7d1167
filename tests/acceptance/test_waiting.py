"""What passes is waited for: a source without a free connection, an API that asks to be left alone; and deadlines."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.acceptance.gate import GATED, Gate
from tests.acceptance.kafka_side import Messages
from tests.acceptance.running_api import running_api
from tests.acceptance.service import HUGE, LARGE, OTHER, SMALL, Service, message, one_dataset, published_in
from tests.upstream_api import Reply, UpstreamApi
from tests.watching import eventually

TWICE = {"PIPELINE_WORKER__MAX_ATTEMPTS": "2"}
RECORDS = "SELECT id, status FROM records WHERE agency_id = $1"


def test_a_source_that_has_one_connection_left(service: Service, messages: Messages) -> None:
    """Runs wait for it, fewer at once, and all succeed, though none has a third try."""
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(GATED))
    service.sql(
        "CREATE ROLE narrow LOGIN CONNECTION LIMIT 1; GRANT SELECT ON ALL TABLES IN SCHEMA public TO narrow; "
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pg_catalog TO narrow;"
    )
    dsn = service.environment["PIPELINE_SOURCE__DSN"]
    env = {
        "PIPELINE_HISTORY__DSN": dsn,
        "PIPELINE_SOURCE__DSN": dsn.replace(f"//{service.servers.postgres.user}", "//narrow"),
    }
    try:
        with Gate(service, HUGE) as gate:
            messages.send({"agency_id": HUGE, "run_id": "first"})
            serve = service.serve(env={**TWICE, **env})
            gate.wait_for_run()
            messages.send({"agency_id": LARGE, "run_id": "second"}, {"agency_id": SMALL, "run_id": "third"})
            serve.wait_until_said("taking fewer runs at once", times=2)
            gate.open()
            events = messages.wait_for_completions(3)
        serve.stop()
    finally:
        service.sql("DROP OWNED BY narrow; DROP ROLE narrow;")

    assert {event.json["state"] for event in events} == {"succeeded"}
    failures = [each["error_kind"] for run_id in ("second", "third") for each in service.attempts(run_id)]
    assert set(failures) == {"too_many_connections", None}


@pytest.fixture(scope="module")
def api() -> Iterator[UpstreamApi]:
    """An API that asks to be left alone for an hour."""
    with running_api() as api:
        api.on("/busy", Reply(status=429, headers={"Retry-After": "3600"}))
        yield api


def test_an_api_that_asks_to_be_left_alone(service: Service, messages: Messages, api: UpstreamApi) -> None:
    """Is asked once, and the run waits for as long; `run` says so, and leaves it queued."""
    lookup = {"url": api.url("/busy?ids={values}"), "on": "status", "key": "id", "add": {"label": "label"}}
    job = service.job_config(one_dataset(RECORDS, steps=[{"enrich_http": lookup}]))
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(job)

    done = service.run(OTHER, "--run-id", "by-hand")
    messages.send({"agency_id": SMALL, "run_id": "served"})
    serve = service.serve(env=TWICE)
    eventually(lambda: service.outcomes("served") == ["retrying"], 60)
    serve.stop()

    assert done.returncode == 75, done.stderr
    assert "put off until" in message(done)
    assert "--run-id by-hand" in message(done)
    assert "3,600 s" in message(done)
    for run_id in ("by-hand", "served"):
        row, (attempt,) = service.history(run_id), service.attempts(run_id)
        assert (row["state"], attempt["error_kind"]) == ("queued", "throttled")
        assert row["not_before"] - attempt["finished_at"] >= timedelta(minutes=59)
    assert len(api.asked) == 2


@pytest.mark.parametrize("fast", [120, -120])
def test_a_deadline_on_a_machine_whose_clock_is_wrong(service: Service, messages: Messages, fast: int) -> None:
    """It is meant by the history's clock: neither is a run in time failed, nor one that is late published."""
    now = datetime.now(UTC)
    messages.send(
        {"agency_id": SMALL, "run_id": "in-time", "deadline": (now + timedelta(seconds=60)).isoformat()},
        {"agency_id": OTHER, "run_id": "late", "deadline": (now - timedelta(seconds=60)).isoformat()},
    )
    serve = service.serve(script=("skewed_cli.py", str(fast)))
    events = {event.json["run_id"]: event.json for event in messages.wait_for_completions(2)}
    serve.stop()

    assert events["in-time"]["state"] == "succeeded"
    created_at = datetime.fromisoformat(published_in(service, "in-time", SMALL)["created_at"])
    assert abs(created_at - service.history("in-time")["finished_at"]) < timedelta(seconds=60)
    assert events["late"]["error"]["kind"] == "deadline_exceeded"
