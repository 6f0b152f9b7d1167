"""What becomes of requests that a foreign client sends, seen from outside: objects, history, attempts and events."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from pipeline_processing.embedded.kafka import KafkaServer
from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.http.signatures import message_id, signature
from tests.acceptance.fault_proxy import LOOPBACK, SLOW_DOWN, FaultProxy
from tests.acceptance.gate import Gate
from tests.acceptance.kafka_side import Message, Messages
from tests.acceptance.published_messages import valid_as
from tests.acceptance.running_api import running_api
from tests.acceptance.service import (
    HUGE,
    JOB,
    LARGE,
    NOBODY,
    OTHER,
    PREFIX,
    SCHEMAS,
    SMALL,
    NewService,
    Service,
    changed,
    published_in,
    valid,
)
from tests.acceptance.shared_serve import Shared, says_what_the_history_says, shared_serve
from tests.upstream_api import Asked, Reply, UpstreamApi
from tests.watching import eventually

ERROR_KINDS = json.loads((SCHEMAS / "error-kinds.json").read_text())
MAX_ATTEMPTS = 3
WEBHOOK_KEY = "0123456789abcdef"

DOCUMENTS = (
    "SELECT id, repeat(md5(title), width) AS body, "
    "CASE WHEN agency_id = 4 THEN pg_advisory_xact_lock_shared(agency_id)::text END AS gate "
    "FROM documents WHERE agency_id = $1 AND (agency_id <> 4 OR id % 100000 <= 50) ORDER BY id"
)
"""Runs of agency HUGE wait at its gate."""
WIDE_AND_SLOW = (
    "SELECT n AS id, repeat('x', 65536) AS body, pg_sleep(0.03)::text AS pause "
    "FROM generate_series(1, 120) AS n WHERE $1::bigint = 2"
)
"""Of agency LARGE, a batch every tenth of a second or so, for 4 s."""
assert (LARGE, HUGE) == (2, 4)


@pytest.fixture(scope="module")
def s3(servers: EmbeddedServers) -> Iterator[FaultProxy]:
    """In front of the bucket."""
    with FaultProxy(servers.seaweedfs.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def source(servers: EmbeddedServers) -> Iterator[FaultProxy]:
    """In front of the agencies' data; not of the history, though that is in the same database."""
    with FaultProxy(servers.postgres.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def receiver() -> Iterator[UpstreamApi]:
    """The server of a webhook."""
    with running_api() as api:
        api.on("/hooks", b"")
        yield api


@pytest.fixture(scope="module")
def shared(
    new_service: NewService,
    kafka: KafkaServer,
    s3: FaultProxy,
    source: FaultProxy,
    receiver: UpstreamApi,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Shared]:
    """A `serve` that works on one run at a time. Agencies without rows fail."""
    sources = {"documents": DOCUMENTS, "slow": WIDE_AND_SLOW}
    query = {name: {"source": {"postgres": {"query": text, "args": ["agency_id"]}}} for name, text in sources.items()}
    steps = [*JOB["datasets"][0]["steps"], {"add": {"reason": "{reason}", "since": "{since}"}}]
    job = changed(JOB, records={"expect": {"min_rows": 1}, "steps": steps}, documents=query["documents"])
    job["params"] = {"reason": {"type": "text", "default": None}}
    job["datasets"].append({"name": "slow", **query["slow"]})
    with new_service(tmp_path_factory.mktemp("requests")) as service:
        postgres = service.environment["PIPELINE_SOURCE__DSN"]
        env = {
            "PIPELINE_HISTORY__DSN": postgres,
            "PIPELINE_SOURCE__DSN": postgres.replace(str(service.servers.postgres.port), str(source.port)),
            "PIPELINE_S3__ENDPOINT_URL": f"http://{LOOPBACK}:{s3.port}",
            "PIPELINE_WORKER__CONCURRENCY": "1",
            "PIPELINE_WORKER__MAX_ATTEMPTS": str(MAX_ATTEMPTS),
            "PIPELINE_WEBHOOKS__BILLING__URL": receiver.url("/hooks"),
            "PIPELINE_WEBHOOKS__BILLING__KEY": WEBHOOK_KEY,
        }
        with shared_serve(service, kafka, job=job, env=env) as opened:
            yield opened


def new_id(what: str) -> str:
    """A run id, or whatever else has to be told from all before."""
    return f"{what}-{uuid4().hex[:8]}"


def traced(trace_id: str) -> str:
    """A `traceparent` of that trace."""
    return f"00-{trace_id}-00f067aa0ba902b7-01"


def run_id_of_place(request: Message) -> str:
    """As the contract says it: `<topic>-<partition>-<offset>-<record timestamp in ms>`."""
    return f"{request.topic}-{request.partition}-{request.offset}-{request.timestamp_ms}"


def run_id_of_event(source: str, event_id: str) -> str:
    """As the contract says it: `ce-` + the first 32 hex digits of SHA-256(`ce_source`, NUL, `ce_id`)."""
    return "ce-" + hashlib.sha256(source.encode() + b"\0" + event_id.encode()).hexdigest()[:32]


def cloud_event(source: str, event_id: str) -> dict[str, str]:
    """The attributes that CloudEvents 1.0 asks for."""
    return {"specversion": "1.0", "id": event_id, "source": source, "type": "com.example.export.wanted"}


def binary(attributes: dict[str, str]) -> dict[str, str]:
    """Attributes as the headers of binary mode."""
    return {f"ce_{name}": value for name, value in attributes.items()}


def runs(service: Service) -> int:
    """How many there are."""
    (row,) = service.sql("SELECT count(*) AS runs FROM pipeline.runs")
    return int(row["runs"])


def work_done(service: Service, run_id: str) -> list[Any]:
    """All that a second execution of the run would change."""
    row = service.history(run_id)
    del row["asked_again"]  # which isn't the contract's, and says nothing of work
    folder = f"{PREFIX}/agency_id={row['agency_id']}/run_id={run_id}/"
    return [row, service.attempts(run_id), service.objects(folder)]


def same_bytes(events: list[Message]) -> tuple[object, ...]:
    """What is the same in all of these: key, value and headers, the event's id among them."""
    (only,) = {(event.key, event.value, event.headers) for event in events}
    return only


# -- one request, and all that follows ---------------------------------------------------------------


def test_a_bare_request_with_a_trace(shared: Shared) -> None:
    """Objects, manifest, history, attempt and event are the contract's, of one mind, and all have that trace id."""
    service, trace_id = shared.service, uuid4().hex
    headers = {"traceparent": traced(trace_id), "tracestate": "vendor=upstream,other=1"}

    (place,) = shared.messages.send({"agency_id": SMALL}, headers=headers, key=str(SMALL))

    request = shared.messages.request_at(place)
    run_id = run_id_of_place(request)
    event = shared.wait_for_event(run_id)
    manifest = published_in(service, run_id, SMALL)  # which looks at the objects and their metadata, too
    assert [(entry["dataset"], entry["rows"]) for entry in manifest["entries"]] == [
        ("records", 10),
        ("documents", 3),
        ("payments", 4),
        ("slow", 0),
    ]

    value, row, (attempt,) = event.json, service.history(run_id), service.attempts(run_id)
    assert event.header("ce_type") == "agency.run.succeeded"
    assert (value["state"], value["error"], value["dry_run"], value["replay_of"]) == ("succeeded", None, False, None)
    assert value["manifest"] == f"{service.destination}/agency_id={SMALL}/run_id={run_id}/_manifest.json"
    for count in ("rows_read", "rows_written", "rows_filtered", "rows_rejected"):
        assert value[count] == manifest[count], count
    assert [value["rows_read"], value["rows_written"], value["rows_filtered"]] == [19, 17, 2]
    assert value["bytes_written"] == sum(entry["meta"]["content_length"] for entry in manifest["entries"])
    assert value["attempt"] == manifest["attempt"] == attempt["attempt"] == 1

    assert (row["topic"], row["partition"], row["offset"]) == (request.topic, *place)
    assert row["request"]["agency_id"] == SMALL
    assert row["queued_at"] <= row["started_at"] <= row["finished_at"]
    assert set(row["timings"]) >= {"source", "upload"}
    assert (row["lease_expires_at"], row["error_kind"], row["dry_run"]) == (None, None, False)
    assert (attempt["outcome"], attempt["error_kind"], attempt["fence"]) == ("succeeded", None, row["fence"])
    assert attempt["worker"] == row["worker"]

    trace_ids = [value["trace_id"], manifest["trace_id"], row["trace_id"], attempt["trace_id"]]
    assert trace_ids == [trace_id] * 4
    assert attempt["span_id"] != row["span_id"], "the attempt has a span of its own"
    assert event.header("tracestate") == "vendor=upstream,other=1"


def test_the_prefix_is_marked_once(shared: Shared) -> None:
    """`_installation.json` names the history that owns the prefix, and later runs leave it as it is."""
    service = shared.service

    def mark_after_a_run() -> Any:
        run_id = new_id("marked")
        shared.messages.send({"agency_id": SMALL, "run_id": run_id})
        shared.wait_for_event(run_id)
        return service.objects(f"{PREFIX}/_")[f"{PREFIX}/_installation.json"]

    mark = mark_after_a_run()

    assert mark_after_a_run() == mark
    (row,) = service.sql("SELECT installation_id::text AS id FROM pipeline.installation")
    assert json.loads(mark.body) == {"installation_id": row["id"]}


def test_all_of_a_request_is_kept(shared: Shared) -> None:
    """What a request says besides the agency is done, and stands in the history and the event."""
    run_id = new_id("full")
    request = {
        "agency_id": OTHER,
        "run_id": run_id,
        "job": "agency_data_job",
        "datasets": ["records"],
        "format": "csv",
        "params": {"reason": "a test"},
        "since": "2026-01-01T00:00:00Z",
        "until": None,
        "dry_run": False,
        "requested_by": "billing-service",
        "priority": 3,
        "replay_of": "an-older-run",
    }

    shared.messages.send(request)

    event = shared.wait_for_event(run_id)
    (entry,) = published_in(shared.service, run_id, OTHER)["entries"]
    assert (entry["dataset"], entry["format"], entry["rows"]) == ("records", "csv", 10)
    assert event.json["replay_of"] == "an-older-run"
    row = shared.service.history(run_id)
    assert (row["requested_by"], row["replay_of"]) == ("billing-service", "an-older-run")
    assert {name: row["request"][name] for name in request} == request


# -- CloudEvents ---------------------------------------------------------------------------------------

JSON = {"content-type": "application/json"}
STRUCTURED = {"content-type": "application/cloudevents+json; charset=UTF-8"}


@pytest.mark.parametrize("mode", ["binary", "binary, trace as attribute", "structured", "structured, trace as header"])
def test_cloud_events(shared: Shared, mode: str) -> None:
    """Binary or structured, wherever they carry the trace: their run has an id made of source and id, and the trace."""
    source, event_id, trace_id = "https://example.com/ä", new_id("event"), uuid4().hex
    attributes, request = cloud_event(source, event_id), {"agency_id": SMALL, "datasets": ["records"]}
    trace = {"traceparent": traced(trace_id), "tracestate": "vendor=event"}
    match mode:
        case "binary":
            shared.messages.send(request, headers=binary(attributes) | JSON | trace)
        case "binary, trace as attribute":
            shared.messages.send(request, headers=binary(attributes | trace))
        case "structured":
            shared.messages.send({**attributes, **trace, "data": request}, headers=STRUCTURED)
        case "structured, trace as header":
            shared.messages.send({**attributes, "data": request}, headers=STRUCTURED | trace)

    run_id = run_id_of_event(source, event_id)
    event = shared.wait_for_event(run_id)
    assert (event.json["state"], event.json["trace_id"]) == ("succeeded", trace_id)
    assert event.header("tracestate") == "vendor=event"
    assert published_in(shared.service, run_id, SMALL)["trace_id"] == trace_id


def test_a_run_id_of_the_request_goes_before_that_of_its_event(shared: Shared) -> None:
    """A CloudEvent whose data names the run: that is its id."""
    run_id, event_id = new_id("named"), new_id("event")

    shared.messages.send(
        {"agency_id": SMALL, "run_id": run_id, "dry_run": True}, headers=binary(cloud_event("/s", event_id))
    )

    shared.wait_for_event(run_id)
    assert shared.service.state(run_id_of_event("/s", event_id)) is None


# -- asked again -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("named_by", ["run id", "cloud event", "cloud event in both modes"])
def test_the_same_request_five_times(shared: Shared, named_by: str) -> None:
    """At once, on all partitions, and again after its end: one run, one manifest, events of one id and content."""
    messages, service = shared.messages, shared.service
    run_id, event_id = new_id("five"), new_id("event")
    request: dict[str, Any] = {"agency_id": SMALL}
    headers: dict[str, str] = {}
    if named_by == "run id":
        request["run_id"] = run_id
    else:
        run_id = run_id_of_event("/upstream", event_id)
        headers = binary(cloud_event("/upstream", event_id))
    before = runs(service)

    def five_times() -> None:
        messages.send(*[request] * 4, headers=headers)
        if named_by == "cloud event in both modes":
            messages.send({**cloud_event("/upstream", event_id), "data": request}, headers=STRUCTURED)
        else:
            messages.send(request, headers=headers)

    five_times()
    shared.wait_for_event(run_id)
    shared.settle()
    first, done = len(messages.completions(run_id)), work_done(service, run_id)
    five_times()
    shared.settle()

    assert len(messages.completions(run_id)) > first, "a finished run sends its event again"
    assert same_bytes(messages.completions(run_id))
    assert runs(service) == before + 1
    assert service.outcomes(run_id) == ["succeeded"]
    published_in(service, run_id, SMALL)
    assert work_done(service, run_id) == done


@pytest.mark.parametrize(
    "other", [{"agency_id": OTHER}, {"agency_id": SMALL, "datasets": ["payments"]}], ids=["agency", "datasets"]
)
def test_a_run_id_that_was_used_for_something_else(shared: Shared, other: dict[str, Any]) -> None:
    """A dead letter, `conflicting_request`; history and bucket stay as the first run has left them."""
    run_id, known = new_id("taken"), new_id("known")
    shared.messages.send({"agency_id": SMALL, "run_id": run_id}, {"agency_id": OTHER, "run_id": known, "dry_run": True})
    shared.wait_for_event(run_id)
    shared.wait_for_event(known)
    shared.settle()
    before, events = shared.service.everything(), len(shared.messages.completions())

    (place,) = shared.messages.send({**other, "run_id": run_id})

    letter = shared.messages.wait_for_dead_letter(place)
    shared.settle()
    assert letter.header("dlq_reason") == "conflicting_request"
    assert run_id in (letter.header("dlq_message") or "")
    assert shared.service.everything() == before
    assert len(shared.messages.completions()) == events
    published_in(shared.service, run_id, SMALL)


def test_a_failed_run_that_is_asked_for_again(shared: Shared) -> None:
    """It sends its event again, with the same id and content, and does no work."""
    run_id = new_id("failed")
    request = {"agency_id": NOBODY, "run_id": run_id}
    shared.messages.send(request)
    event = shared.wait_for_event(run_id)
    shared.settle()
    done = work_done(shared.service, run_id)

    shared.messages.send(request)

    shared.messages.wait_for_completions(2, run_id=run_id)
    shared.settle()
    assert same_bytes(shared.messages.completions(run_id))
    assert work_done(shared.service, run_id) == done
    assert (event.header("ce_type"), event.json["state"]) == ("agency.run.failed", "failed")
    assert event.json["error"] == {
        "kind": "expectation_failed",
        "message": event.json["error"]["message"],
        "retryable": False,
        "exit_code": 1,
    }
    assert not [key for key in shared.service.listed() if run_id in key]


def test_offsets_that_are_reset(service: Service, messages: Messages) -> None:
    """Everything is redelivered: finished runs, whatever their end, send their events again, and none is done twice."""
    job = changed(JOB, records={"expect": {"min_rows": 1}})
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(job))
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    messages.send(
        {"agency_id": SMALL, "run_id": "done-1"},
        {"agency_id": NOBODY, "run_id": "failed-1"},
        {"agency_id": SMALL, "run_id": "cancelled-1", "not_before": later},
        {"agency_id": SMALL, "run_id": "dry-1", "dry_run": True},
        {"agency_id": SMALL, "run_id": "waiting-1", "not_before": later},
        {"agency_id": SMALL},
        b"nonsense",
    )
    service.serve("--once").ended()
    assert service.cli("cancel", "cancelled-1").returncode == 0
    service.serve("--once").ended()
    first = {event.json["run_id"]: event for event in messages.completions()}
    assert len(messages.completions()) == len(first) == 5
    rows, attempts = "SELECT * FROM pipeline.runs ORDER BY run_id", "SELECT * FROM pipeline.run_attempts ORDER BY 1, 2"
    before = [without_asked_again(service.sql(rows)), service.sql(attempts), service.objects()]

    reset_offsets(messages)
    service.serve("--once").ended()

    assert messages.committed() == messages.ends()
    again = messages.completions()
    assert len(again) == 10
    for run_id in first:
        says_what_the_history_says(service, first[run_id])
        assert same_bytes([event for event in again if event.json["run_id"] == run_id])
    assert [without_asked_again(service.sql(rows)), service.sql(attempts), service.objects()] == before
    assert {letter.header("dlq_reason") for letter in messages.dead_letters()} == {"invalid_json"}
    assert {event.json["state"] for event in first.values()} == {"succeeded", "failed", "cancelled"}


def reset_offsets(messages: Messages) -> None:
    """Set the group back to the beginning, as an operator does with Kafka's own tool."""
    start = [TopicPartition(messages.requests_topic, number, 0) for number in range(messages.partitions)]
    asked = messages.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(messages.group, start)])
    for done in asked.values():
        assert [at.error for at in done.result(20).topic_partitions] == [None] * messages.partitions


def without_asked_again(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the history without a column that is none of the contract's."""
    return [{name: value for name, value in row.items() if name != "asked_again"} for row in rows]


# -- what a request can ask for --------------------------------------------------------------------------


def test_a_dry_run(shared: Shared) -> None:
    """It reads and transforms, has its row and its event marked `dry_run`, and no object and no manifest."""
    run_id = new_id("dry")
    bucket = shared.service.listed()

    shared.messages.send({"agency_id": SMALL, "run_id": run_id, "dry_run": True})

    event = shared.wait_for_event(run_id)
    value, row = event.json, shared.service.history(run_id)
    assert event.header("ce_type") == "agency.run.succeeded"
    assert (value["dry_run"], value["manifest"], value["rows_read"]) == (True, None, 19)
    assert (row["dry_run"], row["state"], row["manifest_url"]) == (True, "succeeded", None)
    assert shared.service.listed() == bucket
    assert shared.service.pending_uploads() == []


def test_a_deadline_that_has_passed(shared: Shared) -> None:
    """The run fails with `deadline_exceeded` and an event that says so, without an object."""
    run_id = new_id("late")

    shared.messages.send({"agency_id": SMALL, "run_id": run_id, "deadline": "2020-01-01T00:00:00Z"})

    error = shared.wait_for_event(run_id).json["error"]
    assert error["kind"] == "deadline_exceeded"
    assert {name: error[name] for name in ("retryable", "exit_code")} == {
        name: ERROR_KINDS["deadline_exceeded"][name] for name in ("retryable", "exit_code")
    }
    assert "2020-01-01" in error["message"]
    assert not [key for key in shared.service.listed() if run_id in key]


def test_a_deadline_in_the_middle(shared: Shared) -> None:
    """A run that isn't decided by then is broken off, and leaves no upload."""
    run_id = new_id("too-slow")
    with Gate(shared.service, HUGE) as gate:
        deadline = datetime.now(UTC) + timedelta(seconds=3)
        shared.messages.send({"agency_id": HUGE, "run_id": run_id, "deadline": deadline.isoformat()})

        value = shared.wait_for_event(run_id).json

        eventually(lambda: gate.waiting() == 0)
    assert value["error"]["kind"] == "deadline_exceeded"
    assert datetime.fromisoformat(value["finished_at"]) >= deadline
    assert shared.service.pending_uploads() == []


def test_priorities(shared: Shared) -> None:
    """Of what waits, the highest priority goes first, whoever asked first."""
    asked = {new_id(f"priority{priority}"): priority for priority in (-2, 0, 7, 3)}
    with Gate(shared.service, HUGE) as gate:
        shared.messages.send({"agency_id": HUGE, "run_id": new_id("in-front")})
        eventually(gate.waiting)
        shared.messages.send(
            *[
                {"agency_id": agency, "run_id": run_id, "priority": priority, "dry_run": True}
                for (run_id, priority), agency in zip(asked.items(), (SMALL, OTHER, SMALL, OTHER), strict=True)
            ]
        )
        shared.messages.wait_until_taken()
        gate.open()
        shared.settle()

    began = sorted(asked, key=lambda run_id: shared.service.history(run_id)["started_at"])
    assert [asked[run_id] for run_id in began] == [7, 3, 0, -2]


def test_not_before(shared: Shared) -> None:
    """A run isn't started before, and doesn't hold up those that are asked for later."""
    later, sooner = new_id("later"), new_id("sooner")
    not_before = datetime.now(UTC) + timedelta(hours=1)

    shared.messages.send({"agency_id": SMALL, "run_id": later, "not_before": not_before.isoformat()}, partition=0)
    shared.messages.send({"agency_id": SMALL, "run_id": sooner, "dry_run": True}, partition=0)

    shared.wait_for_event(sooner)
    assert (shared.service.state(later), shared.service.history(later)["not_before"]) == ("queued", not_before)
    (put_forward,) = shared.service.sql(
        "UPDATE pipeline.runs SET not_before = now() + interval '0.5 s' WHERE run_id = $1 RETURNING not_before", later
    )
    shared.wait_for_event(later)
    assert shared.service.history(later)["started_at"] >= put_forward["not_before"]


# -- what passes -----------------------------------------------------------------------------------------


def test_a_source_that_is_away_for_a_moment(shared: Shared, source: FaultProxy) -> None:
    """The run is tried again, each try has a row that says how it ended, and the event is about the last."""
    run_id = new_id("retried")
    with source.cut_off():
        shared.messages.send({"agency_id": SMALL, "run_id": run_id})
        eventually(lambda: "retrying" in shared.service.outcomes(run_id), 30)

    value = shared.wait_for_event(run_id).json
    *failed, succeeded = shared.service.attempts(run_id)
    assert value["state"] == "succeeded"
    assert value["attempt"] == succeeded["attempt"] == len(failed) + 1
    assert (succeeded["outcome"], succeeded["error_kind"]) == ("succeeded", None)
    for attempt in failed:
        assert (attempt["outcome"], attempt["error_kind"]) == ("retrying", "source_unavailable")
        assert attempt["error_message"]
    assert {attempt["trace_id"] for attempt in (*failed, succeeded)} == {value["trace_id"]}
    assert len({attempt["span_id"] for attempt in (*failed, succeeded)}) == len(failed) + 1
    assert published_in(shared.service, run_id, SMALL)["attempt"] == value["attempt"]


def test_a_bucket_that_is_away_for_longer_than_a_runs_tries(shared: Shared, s3: FaultProxy) -> None:
    """Such tries don't count: the runs succeed once it is back, whether it couldn't be reached or throttled."""
    away, throttled = new_id("away"), new_id("throttled")
    with s3.answering(SLOW_DOWN):  # a small run's first request is a HEAD, whose answer has no body to say why
        shared.messages.send({"agency_id": SMALL, "run_id": away}, {"agency_id": LARGE, "run_id": throttled})
        for run_id in (away, throttled):
            eventually(lambda run_id=run_id: shared.service.outcomes(run_id).count("retrying") >= MAX_ATTEMPTS, 60)

    for run_id, kind in ((away, "destination_unavailable"), (throttled, "throttled")):
        value = shared.wait_for_event(run_id, seconds=120).json
        assert value["state"] == "succeeded"
        *failed, succeeded = shared.service.attempts(run_id)
        assert {attempt["error_kind"] for attempt in failed} == {kind}
        assert value["attempt"] == succeeded["attempt"] > MAX_ATTEMPTS


# -- progress --------------------------------------------------------------------------------------------


def test_progress(shared: Shared) -> None:
    """Valid events, at least one of a run of seconds, and of no run that this module had more than one a second."""
    run_id = new_id("slow")

    shared.messages.send({"agency_id": LARGE, "run_id": run_id, "datasets": ["slow"]})

    value = shared.wait_for_event(run_id).json
    told = defaultdict(list)
    for message in shared.messages.progress():
        valid("run-progress", message.json)
        valid_as("runProgress", message)
        assert message.key == str(message.json["agency_id"]).encode()
        told[message.json["run_id"]].append(message)
    mine = [message.json for message in told[run_id]]
    assert value["duration_ms"] > 3000
    assert len(mine) >= 2
    assert {(each["attempt"], each["state"], each["dataset"]) for each in mine} == {(1, "running", "slow")}
    for name in ("rows_read", "rows_written", "bytes_written"):
        counts = [each[name] for each in mine]
        assert counts == sorted(counts)
        assert counts[-1] <= value[name]
    for messages in told.values():
        seconds = (messages[-1].timestamp_ms - messages[0].timestamp_ms) / 1000
        # One more than full seconds, and one for a first that was a moment late.
        assert len(messages) <= seconds + 2, [message.timestamp_ms for message in messages]
        assert len({message.header("ce_id") for message in messages}) == len(messages)


def test_a_webhook_gets_the_same_event_until_it_accepts_it(shared: Shared, receiver: UpstreamApi) -> None:
    """The bytes of the Kafka event, signed; the history tells when it was delivered. `redeliver` sends it again."""
    run_id = new_id("hook")

    def posted() -> list[Asked]:
        return [asked for asked in receiver.asked if asked.headers["ce-id"] == f"{run_id}:succeeded"]

    def refused_once(asked: Asked) -> Reply | None:
        return Reply(status=500) if posted() == [asked] else None

    def delivery() -> dict[str, Any]:
        (only,) = json.loads(shared.service.cli("history", "--run-id", run_id, "--json").stdout)["webhooks"]
        return dict(only)

    receiver.faults.append(refused_once)
    shared.messages.send({"agency_id": SMALL, "run_id": run_id})
    event = shared.wait_for_event(run_id)
    eventually(lambda: delivery()["state"] == "delivered", 60)

    known = delivery()
    assert (known["webhook"], known["tries"], known["last_status"]) == ("billing", 2, 200)
    assert shared.service.cli("webhooks", "redeliver", run_id).returncode == 0
    eventually(lambda: len(posted()) == 3, 30)
    for asked in posted():
        id_, sent_at = asked.headers["webhook-id"], asked.headers["webhook-timestamp"]
        assert (asked.method, asked.body, id_) == ("POST", event.value, message_id(f"{run_id}:succeeded"))
        assert asked.headers["webhook-signature"] == signature(id_, sent_at, asked.body, key=WEBHOOK_KEY.encode())
