"""Requests that can't be used: put aside untouched with their reason, never in the way of others, and sent again."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

from pipeline_processing.embedded.kafka import KafkaServer
from tests.acceptance.kafka_side import Message, Messages
from tests.acceptance.published_messages import valid_as
from tests.acceptance.service import (
    JOB,
    OTHER,
    SMALL,
    NewService,
    Service,
    changed,
    dataset_rows,
    message,
    one_dataset,
    published_in,
)
from tests.acceptance.shared_serve import Shared, shared_serve
from tests.watching import eventually

ADDED = ["dlq_reason", "dlq_message", "dlq_topic", "dlq_partition", "dlq_offset", "dlq_at", "dlq_timestamp"]
RECORDS = "SELECT id, name FROM records WHERE agency_id = $1 ORDER BY id"
STRUCTURED = ("content-type", b"application/cloudevents+json")
CE = (("ce_specversion", b"1.0"), ("ce_source", b"/upstream"), ("ce_type", b"com.example.export.wanted"))

HEADERS: tuple[tuple[str, bytes], ...] = (
    ("repeated", b"first"),
    ("repeated", b"second"),
    ("binary", b"\x00\xff\xfe"),
    ("empty", b""),
    ("dlq_reason", b"of an earlier life"),
    ("repeated", b"third"),
)
"""What a message may have besides, and its dead letter has to keep."""


@pytest.fixture(scope="module")
def shared(new_service: NewService, kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """A `serve` with a small job of one dataset, `records`."""
    with (
        new_service(tmp_path_factory.mktemp("dead-letters")) as service,
        shared_serve(service, kafka, job=one_dataset(RECORDS)) as opened,
    ):
        yield opened


def place_of(at: Message) -> str:
    """As the command line writes it."""
    return f"{at.partition}:{at.offset}"


def is_letter_of(letter: Message, request: Message, reason: str) -> None:
    """Key, value and headers are the request's own, and the rest is added behind them; none is without a key."""
    valid_as("deadLetter", letter)
    added = ADDED
    if request.key is None:
        added = [*ADDED, "dlq_key"]
        assert (letter.key, letter.header("dlq_key")) == (f"{request.partition}-{request.offset}".encode(), "null")
    else:
        assert letter.key == request.key
    assert letter.value == request.value
    assert letter.headers[: -len(added)] == request.headers
    assert [name for name, _ in letter.headers[-len(added) :]] == added
    assert letter.header("dlq_timestamp") == str(request.timestamp_ms)
    assert letter.header("dlq_reason") == reason
    assert letter.header("dlq_topic") == request.topic
    assert (letter.header("dlq_partition"), letter.header("dlq_offset")) == (
        str(request.partition),
        str(request.offset),
    )
    put_aside_at = datetime.fromisoformat(letter.header("dlq_at") or "")
    assert timedelta(0) <= datetime.now(UTC) - put_aside_at < timedelta(minutes=5)


# -- reasons -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bad:
    """A request that can't be used, and what its dead letter says."""

    reason: str
    says: str
    value: object
    headers: tuple[tuple[str, bytes], ...] = ()
    key: bytes | None = None
    first: object = None
    """To be accepted before."""


BAD = {
    "not JSON": Bad("invalid_json", "JSON", b"agency 7, please", key=b"7"),
    "broken off": Bad("invalid_json", "JSON", b'{"agency_id": 7', key=b""),
    "binary": Bad("invalid_json", "JSON", bytes(range(256)), key=bytes(range(256))),
    "no value": Bad("invalid_json", "no value", None, key=b"7"),
    "empty value": Bad("invalid_json", "JSON", b""),
    "too deep": Bad("invalid_json", "JSON", b"[" * 100_000),
    "not an object": Bad("invalid_request", "object", b"[7]"),
    "no agency": Bad("invalid_request", "agency_id", {"run_id": "x"}),
    "agency as text": Bad("invalid_request", "agency_id", {"agency_id": "7"}),
    "agency 0": Bad("invalid_request", "agency_id", {"agency_id": 0}),
    "agency beyond bigint": Bad("invalid_request", "agency_id", {"agency_id": 2**63}),
    "unknown key": Bad("invalid_request", "bucket", {"agency_id": 7, "bucket": "mine"}),
    "run id with a slash": Bad("invalid_request", "run_id", {"agency_id": 7, "run_id": "../7"}),
    "time without a zone": Bad("invalid_request", "since", {"agency_id": 7, "since": "2026-01-18T10:00:00"}),
    "unknown format": Bad("invalid_request", "format", {"agency_id": 7, "format": "avro"}),
    "a NUL, which Postgres can't store": Bad("invalid_request", "NUL", {"agency_id": 7, "requested_by": "a\0b"}),
    "a since that nothing uses": Bad(
        "invalid_request", "since: is not used", {"agency_id": 7, "since": "2026-01-18T10:00:00Z"}
    ),
    "a misspelt param": Bad("invalid_request", "params.regoin: is not used", {"agency_id": 7, "params": {"regoin": 1}}),
    "event without an id": Bad("invalid_event", "id", {"agency_id": 7}, CE),
    "event of another version": Bad("invalid_event", "1.0", {"agency_id": 7}, (("ce_specversion", b"0.3"), *CE[1:])),
    "structured without data": Bad("invalid_event", "data", {"specversion": "1.0", "id": "1"}, (STRUCTURED,)),
    "structured without a source": Bad(
        "invalid_event",
        "source",
        {"specversion": "1.0", "id": "1", "type": "t", "data": {"agency_id": 7}},
        (STRUCTURED,),
    ),
    "structured, not JSON": Bad("invalid_json", "JSON", b"<agency/>", (STRUCTURED,)),
    "structured, with a wrong request": Bad(
        "invalid_request",
        "agency_id",
        {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": {"agency_id": None}},
        (STRUCTURED,),
    ),
    "unknown job": Bad("unknown_job", "'agency_other_job'", {"agency_id": 7, "job": "agency_other_job"}),
    "unknown dataset": Bad("unknown_dataset", "'invoices'", {"agency_id": 7, "datasets": ["records", "invoices"]}),
    "a run id for something else": Bad(
        "conflicting_request",
        "'used-1'",
        {"agency_id": OTHER, "run_id": "used-1", "dry_run": True},
        first={"agency_id": SMALL, "run_id": "used-1", "dry_run": True},
    ),
    "too large": Bad("too_large", "", {"agency_id": 7, "params": {"filler": "x" * 300_000}}),
}


@pytest.mark.parametrize("name", BAD)
def test_reasons(shared: Shared, name: str) -> None:
    """Each has its reason and a message that names the fault; the letter is the request, byte for byte."""
    bad, messages = BAD[name], shared.messages
    if bad.first is not None:
        messages.send(bad.first, partition=0)

    (place,) = messages.send(bad.value, headers=(*HEADERS, *bad.headers), key=bad.key, partition=0)

    letter = messages.wait_for_dead_letter(place)
    is_letter_of(letter, messages.request_at(place), bad.reason)
    assert letter.headers[: len(HEADERS)] == HEADERS
    assert bad.says in (letter.header("dlq_message") or "")


def test_a_header_without_a_value(shared: Shared) -> None:
    """Kafka tells no value from an empty one, and so does the letter."""
    (place,) = shared.messages.send(b"nonsense", headers=[("none", None), ("empty", b"")])  # type: ignore[list-item]

    letter = shared.messages.wait_for_dead_letter(place)

    assert letter.headers[: -len(ADDED) - 1] == (("none", None), ("empty", b""))


def test_every_reason_has_a_message_above(shared: Shared) -> None:
    """The reasons are those of the contract, and nothing has made another."""
    reasons = {
        "invalid_json",
        "invalid_request",
        "invalid_event",
        "unknown_job",
        "unknown_dataset",
        "conflicting_request",
        "too_large",
    }
    assert {bad.reason for bad in BAD.values()} == reasons
    assert {letter.header("dlq_reason") for letter in shared.messages.dead_letters()} <= reasons


def test_a_request_so_large_that_its_letter_has_no_room(shared: Shared) -> None:
    """The largest that the broker takes: its letter says where it stands, instead of holding up all others."""
    messages = shared.messages
    # A record has some 50 bytes of its own; the broker takes 1048588, and the letter's headers are more than that.
    value = json.dumps({"agency_id": SMALL, "params": {"filler": "x" * 1_048_400}}).encode()
    producer = messages.producer(message_max_bytes=4_000_000)
    stored: list[tuple[int, int]] = []
    producer.produce(
        messages.requests_topic,
        value,
        partition=0,
        on_delivery=lambda error, at: stored.append((at.partition(), at.offset() if error is None else -1)),
    )
    assert producer.flush(20) == 0
    messages.send({"agency_id": SMALL, "run_id": "behind-it", "dry_run": True}, partition=0)

    letter = messages.wait_for_dead_letter(stored[0])
    shared.wait_for_event("behind-it")
    assert (letter.header("dlq_reason"), letter.value) == ("too_large", None)
    assert "dlq_offset" in (letter.header("dlq_message") or "")


# -- many ----------------------------------------------------------------------------------------------


def test_malformed_messages_in_crowds(shared: Shared) -> None:
    """1,000 malformed among 100 good ones: all good ones are done, each bad one has its letter, and nothing stops."""
    messages, mark = shared.messages, uuid4().hex[:8]
    kinds: list[tuple[str, object]] = [
        ("invalid_json", b"\x00nonsense"),
        ("invalid_request", {"agency_id": "seven"}),
        ("unknown_dataset", {"agency_id": 7, "datasets": ["nonsense"]}),
        ("unknown_job", {"agency_id": 7, "job": "nonsense"}),
        ("invalid_json", None),
    ]
    sent: list[tuple[Any, str | None]] = []
    for number in range(1100):
        if number % 11 == 5:
            which = number // 11
            # Most are dry runs: it is the taking that is in question.
            request = {"agency_id": 1000 + which, "run_id": f"{mark}-{which}", "dry_run": which % 4 > 0}
            sent.append((request, None))
        else:
            sent.append((kinds[number % 5][1], kinds[number % 5][0]))
    good = [value["run_id"] for value, reason in sent if reason is None]
    before = len(messages.dead_letters())

    started = time.monotonic()
    places = messages.send(*[value for value, _ in sent])
    expected = {place: reason for place, (_, reason) in zip(places, sent, strict=True) if reason is not None}
    assert (len(good), len(expected)) == (100, 1000)
    count = "SELECT count(*) AS n FROM pipeline.runs WHERE run_id LIKE $1"
    changes = [(started, 0)]

    def all_taken() -> bool:
        assert shared.serve.is_alive()
        taken = len(messages.dead_letters()) - before + shared.service.sql(count, f"{mark}-%")[0]["n"]
        if taken > changes[-1][1]:
            changes.append((time.monotonic(), taken))
        return taken >= 1100

    eventually(all_taken, 120)
    took = changes[-1][0] - started
    longest = max(after - at for (at, _), (after, _) in pairwise(changes))
    shared.settle(seconds=180)
    done = time.monotonic() - started
    print(
        f"\n1,100 requests taken in {took:.1f} s ({1100 / took:,.0f}/s), the longest pause {longest:.1f} s; "
        f"the 100 good runs done after {done:.1f} s"
    )

    letters = messages.dead_letters()[before:]
    told = {(int(letter.header("dlq_partition") or -1), int(letter.header("dlq_offset") or -1)) for letter in letters}
    assert (len(letters), told) == (1000, set(expected))
    for letter in letters:
        place = (int(letter.header("dlq_partition") or -1), int(letter.header("dlq_offset") or -1))
        assert letter.header("dlq_reason") == expected[place]
    states = {event.json["run_id"]: event.json["state"] for event in messages.completions()}
    assert Counter(states.get(run_id) for run_id in good) == {"succeeded": 100}
    assert longest < 30
    assert shared.serve.is_ready()


# -- the command line ----------------------------------------------------------------------------------


def listed(service: Service, *options: object) -> list[dict[str, Any]]:
    """`dead-letters list --json`."""
    done = service.cli("dead-letters", "list", "--json", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_list(shared: Shared) -> None:
    """All that there are, the newest first, or those of a reason, or so many, or since then."""
    service, messages = shared.service, shared.messages
    (first,) = messages.send(b"nonsense", key=b"key-1")
    messages.wait_for_dead_letter(first)
    (second,) = messages.send({"agency_id": 7, "job": "nonsense"}, key=b"\xff")
    letter = messages.wait_for_dead_letter(second)

    everything = listed(service, "--limit", 100_000)

    assert {each["place"] for each in everything} == {place_of(each) for each in messages.dead_letters()}
    newest, next_ = everything[:2]
    assert (newest["dlq_partition"], newest["dlq_offset"]) == second
    assert newest["dlq_reason"] == "unknown_job"
    assert newest["dlq_topic"] == messages.requests_topic
    assert newest["dlq_message"] == letter.header("dlq_message")
    assert newest["dlq_at"] == letter.header("dlq_at")
    assert newest["key_base64"] == base64.b64encode(b"\xff").decode()
    assert ((next_["dlq_partition"], next_["dlq_offset"]), next_["key"]) == (first, "key-1")
    assert listed(service, "--limit", 2) == everything[:2]
    assert listed(service, "--since", "1h", "--limit", 1) == everything[:1]
    some = listed(service, "--reason", "conflicting_request", "--limit", 100_000)
    assert some == [each for each in everything if each["dlq_reason"] == "conflicting_request"]

    table = service.cli("dead-letters", "list", "--limit", 2).stdout.splitlines()
    assert len(table) == 3
    assert newest["place"] in table[1]
    assert "unknown_job" in table[1]


def test_show(shared: Shared) -> None:
    """One in full: every header in order, repeated ones and binary ones too, and the value as it came."""
    service, messages = shared.service, shared.messages
    (place,) = messages.send(b"caf\xe9 \x1b[31m", headers=HEADERS, key=b"k")
    letter = messages.wait_for_dead_letter(place)

    done = service.cli("dead-letters", "show", place_of(letter), "--json")

    shown = json.loads(done.stdout)
    assert (shown["topic"], shown["place"]) == (letter.topic, place_of(letter))
    assert (shown["key"], base64.b64decode(shown["value_base64"])) == ("k", letter.value)
    values = [
        base64.b64decode(each["value_base64"])
        if "value_base64" in each
        else None
        if each["value"] is None
        else each["value"].encode()
        for each in shown["headers"]
    ]
    assert list(zip([each["name"] for each in shown["headers"]], values, strict=True)) == list(letter.headers)
    text = service.cli("dead-letters", "show", place_of(letter))
    assert "\x1b" not in text.stdout
    assert "invalid_json" in text.stdout

    nowhere = service.cli("dead-letters", "show", "0:99999999")
    assert (nowhere.returncode, nowhere.stdout) == (65, "")
    assert "0:99999999" in message(nowhere)
    assert service.cli("dead-letters", "show", "first").returncode == 64


def test_redrive_after_mending(service: Service, messages: Messages) -> None:
    """What the mended job config knows succeeds; sent again twice, it is one run of the id and trace that it had."""
    trace_id = uuid4().hex
    headers = [("repeated", "a"), ("traceparent", f"00-{trace_id}-00f067aa0ba902b7-01"), ("repeated", "b")]
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(one_dataset(RECORDS)))
    wanted = {"agency_id": SMALL, "datasets": ["payments"]}
    places = [
        *messages.send({**wanted, "run_id": "named-1"}, headers=headers, key="1"),
        *messages.send(wanted, headers=[*CE, ("ce_id", "event-1")]),
        *messages.send(wanted),  # it has nothing but its place to say which run it is
        *messages.send(b"nonsense", key=b"\xff"),
    ]
    requests = [messages.request_at(place) for place in places]
    bare = requests[2]
    run_ids = {"named-1", "ce-" + sha256(b"/upstream\0event-1"), f"{bare.topic}-0-{bare.offset}-{bare.timestamp_ms}"}
    service.serve("--once").ended()
    assert [letter.header("dlq_reason") for letter in messages.dead_letters()].count("unknown_dataset") == 3
    before = service.everything()

    # Not mended yet: it comes back as a letter.
    assert service.cli("dead-letters", "redrive", "--reason", "unknown_dataset").returncode == 0
    service.serve("--once").ended()
    assert len(messages.dead_letters()) == 7
    assert service.everything() == before

    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(changed(JOB, payments={})))
    for _ in range(2):
        done = service.cli("dead-letters", "redrive", "--reason", "unknown_dataset")
        assert done.returncode == 0, done.stderr
        assert all(run_id in done.stdout for run_id in run_ids), done.stdout
        assert "3 requests sent" in done.stdout
    service.serve("--once").ended()
    (named,) = [each for each in messages.dead_letters() if each.key == b"1"][:1]
    assert service.cli("dead-letters", "redrive", place_of(named)).returncode == 0  # and once more when it has finished
    service.serve("--once").ended()

    rows = service.sql("SELECT run_id, state FROM pipeline.runs")
    assert {row["run_id"]: row["state"] for row in rows} == dict.fromkeys(run_ids, "succeeded")
    for run_id in run_ids:
        assert service.outcomes(run_id) == ["succeeded"]
        assert len(dataset_rows(service, published_in(service, run_id, SMALL), "payments")) == 4
        assert len({(event.value, event.headers) for event in messages.completions(run_id)}) == 1
    assert service.history("named-1")["trace_id"] == trace_id
    sent = [each for each in messages.all_of(messages.requests_topic) if each.key == b"1"]
    assert len(sent) == 5
    assert {(each.value, each.headers) for each in sent} == {(requests[0].value, requests[0].headers)}
    assert len(messages.dead_letters()) == 7, "the malformed one wasn't asked for, and the others were good"

    # Without a reason, everything is sent, and what is still wrong is put aside again, just as it was.
    assert service.cli("dead-letters", "redrive").returncode == 0
    service.serve("--once").ended()
    malformed = [each for each in messages.dead_letters() if each.header("dlq_reason") == "invalid_json"]
    assert [(each.key, each.value, each.headers[: -len(ADDED)]) for each in malformed] == [
        (b"\xff", b"nonsense", ())
    ] * 2
    assert len(service.sql("SELECT FROM pipeline.runs")) == 3


def sha256(data: bytes) -> str:
    """The first 32 hex digits."""
    return hashlib.sha256(data).hexdigest()[:32]


def test_redrive_of_a_place_that_has_none(shared: Shared) -> None:
    """65, and none of the others that were named is sent either."""
    (place,) = shared.messages.send(b"nonsense")
    letter = shared.messages.wait_for_dead_letter(place)
    ends = shared.messages.ends()

    done = shared.service.cli("dead-letters", "redrive", place_of(letter), "0:99999999")

    assert done.returncode == 65
    assert "0:99999999" in message(done)
    assert shared.messages.ends() == ends


# -- letters that Kafka refuses ------------------------------------------------------------------------


def configure(messages: Messages, **options: str) -> None:
    """Set options of the topic of dead letters."""
    entries = [
        ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for name, value in options.items()
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, messages.dead_letters_topic, incremental_configs=entries)
    for altered in messages.admin.incremental_alter_configs([resource]).values():
        altered.result(20)


def test_letters_that_kafka_refuses(service: Service, messages: Messages) -> None:
    """None stops a good request. Those that it refuses for good stand in the database, and are found as the others."""
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(one_dataset(RECORDS)))
    configure(messages, cleanup_policy="compact")
    serve = service.serve()
    (place,) = messages.send(b"nonsense", partition=0)
    messages.send({"agency_id": SMALL, "run_id": "good-1"}, partition=0)
    is_letter_of(messages.wait_for_dead_letter(place), messages.request_at(place), "invalid_json")
    messages.wait_for_completions(1, run_id="good-1")

    configure(messages, max_message_bytes="150")
    bare = {"agency_id": SMALL, "datasets": ["later"]}
    (place,) = messages.send(bare, partition=0)
    messages.send({"agency_id": SMALL, "run_id": "good-2"}, partition=0)
    messages.wait_for_completions(1, run_id="good-2")
    said = serve.wait_until_said("stored in the history's database")
    assert (said["level"], said["reason"], said["offset"]) == ("error", "unknown_dataset", str(place[1]))
    serve.stop()

    request = messages.request_at(place)
    stored, other = listed(service)
    assert (stored["place"], stored["dlq_offset"], stored["key"]) == ("db:1", request.offset, None)
    assert other["dlq_reason"] == "invalid_json"
    shown = json.loads(service.cli("dead-letters", "show", "db:1", "--json").stdout)
    assert json.loads(shown["value"]) == bare
    done = service.cli("dead-letters", "redrive", "db:1")
    assert done.returncode == 0, done.stderr
    run_id = f"{request.topic}-{request.partition}-{request.offset}-{request.timestamp_ms}"
    (again,) = [each for each in messages.all_of(messages.requests_topic) if run_id.encode() in (each.value or b"")]
    assert again.json == {**bare, "run_id": run_id}
    assert (again.key, again.headers) == (None, ())
