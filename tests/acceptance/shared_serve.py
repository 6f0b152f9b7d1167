"""
One `serve` for all tests of a module, with its own database, bucket and topics, because starting one takes longer than
most tests. Each test uses different run ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline_processing.embedded.kafka import KafkaServer
from tests.acceptance.kafka_side import Message, Messages
from tests.acceptance.published_messages import valid_as
from tests.acceptance.service import Service, valid
from tests.acceptance.serving import Serving
from tests.watching import eventually


@dataclass(frozen=True, slots=True)
class Shared:
    """A service, its messages, and its `serve`."""

    service: Service
    messages: Messages
    serve: Serving

    def wait_for_event(self, run_id: str, *, seconds: float = 60.0) -> Message:
        """Wait for the event of a run, and check it against the published schema and the run's row of the history."""
        event = self.messages.wait_for_completions(1, run_id=run_id, seconds=seconds)[0]
        says_what_the_history_says(self.service, event)
        return event

    def settle(self, *, seconds: float = 60.0) -> None:
        """Wait until all requests are accepted, all due runs have ended, and all events are sent."""
        self.messages.wait_until_taken(seconds=seconds)
        unsettled = (
            "SELECT FROM pipeline.runs WHERE finished_at IS NULL AND (not_before IS NULL OR not_before < now()) "
            "UNION ALL SELECT FROM pipeline.outbox WHERE sent_at IS NULL"
        )
        eventually(lambda: not self.service.sql(unsettled), seconds)


@contextmanager
def shared_serve(
    service: Service, kafka: KafkaServer, *, job: Mapping[str, Any], env: Mapping[str, str | None] | None = None
) -> Iterator[Shared]:
    """Run a `serve` inside the block, which must end cleanly after it."""
    with Messages(kafka.bootstrap_servers) as messages:
        service.environment.update(messages.environment)
        service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(job))
        serve = service.serve(env=env)
        serve.wait_until_taking()
        yield Shared(service, messages, serve)
        serve.stop()


def says_what_the_history_says(service: Service, event: Message) -> None:
    """Check a completion event against the published schema and the run's row."""
    value = event.json
    valid("run-completion", value)
    valid_as(f"run{value['state'].capitalize()}", event)
    row = service.history(value["run_id"])
    assert event.key == str(row["agency_id"]).encode()
    assert event.header("ce_id") == f"{row['run_id']}:{row['state']}"
    assert event.header("content-type") == "application/json"
    assert event.header("traceparent") == f"00-{row['trace_id']}-{row['span_id']}-01"
    same = ("run_id", "job", "agency_id", "state", "attempt", "dry_run", "labels", "replay_of", "trace_id")
    assert [value[name] for name in (*same, "duration_ms")] == [row[name] for name in (*same, "duration_ms")]
    # A run that never got to its end has no counts in the history, and zeros in its event.
    counts = ("rows_read", "rows_written", "rows_filtered", "rows_rejected", "bytes_written")
    assert [value[name] for name in counts] == [row[name] or 0 for name in counts]
    assert value["bill"] == row["bill"]
    assert value["manifest"] == row["manifest_url"]
    moments = {"requested_at": "queued_at", "started_at": "started_at", "finished_at": "finished_at"}
    for told, stored in moments.items():
        assert (None if value[told] is None else value[told]) == _rfc_3339(row[stored]), told
    error = value["error"]
    assert (error and error["kind"], error and error["message"]) == (row["error_kind"], row["error_message"])


def _rfc_3339(moment: Any) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
