"""`/metrics` of a real `serve`, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline_processing.embedded.kafka import KafkaServer
from pipeline_processing.telemetry.metrics import Instrument, Metrics
from tests.acceptance.service import OTHER, SMALL, NewService, one_dataset
from tests.acceptance.shared_serve import Shared, shared_serve
from tests.docs.tables import prometheus_name
from tests.watching import eventually

RECORDS = f"SELECT id, name, 1 / ({OTHER} - agency_id) AS inverse FROM records WHERE agency_id = $1 ORDER BY id"
"""Fails for one agency: it divides by zero."""
NOT_OF_SERVE = {"pipeline_triggers_windows_open", "pipeline_triggers_windows_overdue_seconds"}


@pytest.fixture(scope="module")
def shared(new_service: NewService, kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """A `serve` with a webhook that nobody answers."""
    webhook = {"PIPELINE_WEBHOOKS__OPS__URL": "http://127.0.0.1:1/", "PIPELINE_WEBHOOKS__OPS__KEY": "0123456789abcdef"}
    with (
        new_service(tmp_path_factory.mktemp("metrics")) as service,
        shared_serve(service, kafka, job=one_dataset(RECORDS), env=webhook) as opened,
    ):
        yield opened


def test_runs_and_dead_letters_are_counted(shared: Shared) -> None:
    """A run, a failed run, a repeated request, and two messages that are none."""
    before = shared.serve.metrics()
    assert before["pipeline_attempts_total", "failed"] == 0  # a first failure is a rise, too
    done, failed = {"agency_id": SMALL, "run_id": "done"}, {"agency_id": OTHER, "run_id": "failed"}
    shared.messages.send(done, failed)
    for each in (done, failed):
        shared.wait_for_event(str(each["run_id"]))
    shared.messages.send(done, b"{", b"x")
    shared.messages.wait_for_dead_letters(2)
    shared.messages.wait_for_completions(2, run_id="done")

    topic = shared.messages.requests_topic
    settled = ("pipeline_intake_messages_total", topic, "dead_letter")
    eventually(lambda: shared.serve.metrics()[settled] == 2)  # counted once the letter is stored

    found = shared.serve.metrics()
    assert found["pipeline_runs_finished_total", "", "succeeded"] == 1
    assert found["pipeline_runs_finished_total", "query_failed", "failed"] == 1
    assert found["pipeline_attempts_total", "succeeded"] == 1
    assert found["pipeline_attempts_total", "failed"] == 1
    assert found["pipeline_run_duration_seconds_count", "succeeded"] == 1
    assert found["pipeline_stage_duration_seconds_count", "upload"] == 1
    assert found["pipeline_dead_letters_total", "invalid_json"] == 2
    for result, messages in {"accepted": 2, "repeated": 1, "dead_letter": 2}.items():
        assert found["pipeline_intake_messages_total", topic, result] == messages
    assert found["pipeline_webhook_deliveries_total", "retrying", "ops"] >= 1
    for server in ("kafka", "history", "destination"):
        assert found["pipeline_server_up", server] == 1
    for pool in ("history", "leases", "source"):
        assert found["db_client_connection_max", pool] >= found["db_client_connection_count", pool, "used"]
    run = shared.service.history("done")
    for outcome in ("read", "written", "filtered", "rejected"):
        assert found["pipeline_run_rows_total", outcome] == run[f"rows_{outcome}"]
    assert found["pipeline_run_bytes_total",] == run["bytes_written"]


def test_it_shows_what_is_documented(shared: Shared) -> None:
    """Every documented instrument of `serve`, and no other; each with the documented labels."""
    documented = {prometheus_name(each): each for each in Metrics().instruments}
    eventually(lambda: not missing(shared, documented), 20)  # the lag is asked for every 10 s
    for family in text_string_to_metric_families(shared.serve.scraped()):
        if family.name == "target_info":
            continue
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {each.replace(".", "_") for each in documented[name].attributes}
        for sample in family.samples:
            assert set(sample.labels) - {"le"} <= labels, sample
        assert family.documentation == documented[name].description


def missing(shared: Shared, documented: Mapping[str, Instrument]) -> set[str]:
    """The documented names that the scrape lacks."""
    text = shared.serve.scraped()
    return {name for name in documented if f"# TYPE {name} " not in text} - NOT_OF_SERVE
