"""Upstream events become one run per agency and window, whatever happens to the processes in between."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline_processing.embedded.kafka import KafkaServer
from tests.acceptance.kafka_side import Messages
from tests.acceptance.upstream import TRACEPARENT, Upstream, body
from tests.watching import eventually

QUIET = {"quiet_for": "2s"}
AGENCIES = range(1, 21)

Watch = Callable[..., Upstream]


@pytest.fixture
def watch(kafka: KafkaServer, tmp_path: Path) -> Iterator[Watch]:
    """Returns an upstream service with topics of its own, which exist unless told otherwise."""
    with ExitStack() as stack:

        def new(
            *, debounce: Mapping[str, str] | None = QUIET, create: bool = True, server: KafkaServer = kafka
        ) -> Upstream:
            messages = stack.enter_context(Messages(server.bootstrap_servers))
            environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
            upstream = Upstream(messages, environment=environment, folder=tmp_path, debounce=debounce)
            stack.callback(upstream.close)
            if create:
                upstream.create()
            return upstream

        yield new


def test_many_events_are_one_run_per_agency(watch: Watch) -> None:
    """The request has a trace of its own; the process is ready once it holds its windows, and stops cleanly."""
    upstream = watch()
    upstream.happen(AGENCIES, times=50)
    process = upstream.start()
    eventually(process.is_ready, 60)
    assert upstream.wait_for_runs(len(AGENCIES)) == dict.fromkeys(AGENCIES, 1)

    (request, *_) = upstream.requests()
    assert request.key == str(request.json["agency_id"]).encode()
    assert request.header("ce_type") == "agency.run.requested"
    assert request.header("traceparent") not in (None, TRACEPARENT)
    assert request.json["requested_by"] == "trigger:updated"
    assert process.is_alive()
    upstream.happen(AGENCIES)
    assert set(upstream.wait_for_runs(len(AGENCIES), seconds=60)) == set(AGENCIES)
    eventually(lambda: upstream.runs() == dict.fromkeys(AGENCIES, 2), 60)
    process.stop()


def test_a_killed_process_changes_nothing(watch: Watch) -> None:
    """The next one goes on with the windows that it finds."""
    upstream = watch(debounce={"quiet_for": "4s"})
    upstream.happen(AGENCIES, times=50)
    process = upstream.start()
    upstream.wait_until_seen(1)
    process.kill()
    upstream.happen(AGENCIES, times=50)
    upstream.start()
    assert upstream.wait_for_runs(len(AGENCIES)) == dict.fromkeys(AGENCIES, 1)


def test_a_process_that_joins_and_leaves_changes_nothing(watch: Watch) -> None:
    """Its share moves to it with all windows, and back."""
    upstream = watch(debounce={"quiet_for": "8s"})
    first = upstream.start()
    upstream.happen(AGENCIES, times=20)
    upstream.wait_until_seen(len(AGENCIES))
    second = upstream.start()
    second.wait_until_said("holding windows")
    upstream.happen(AGENCIES, times=20)
    second.stop()
    first.wait_until_said("holding windows", times=2)
    assert upstream.wait_for_runs(len(AGENCIES)) == dict.fromkeys(AGENCIES, 1)
    first.stop()


def test_a_lost_changelog_loses_and_doubles_nothing(watch: Watch) -> None:
    """Open windows are rebuilt, and closed ones stay closed."""
    upstream = watch()
    process = upstream.start()
    upstream.happen(AGENCIES)
    upstream.wait_for_runs(len(AGENCIES))
    process.stop()
    upstream.file("triggers.yaml", debounce={"quiet_for": "60s", "at_latest_after": "60s"})
    process = upstream.start()
    upstream.happen([*AGENCIES, 99])
    eventually(lambda: upstream.open_windows() == len(AGENCIES) + 1, 60)
    process.stop()

    upstream.delete(upstream.changelog_topic)
    process = upstream.start()
    process.wait_until_said("are rebuilt from the log of entries")
    eventually(lambda: upstream.open_windows() == len(AGENCIES) + 1, 60)
    assert process.metrics()["pipeline_triggers_windows_open",] == len(AGENCIES) + 1
    assert len(upstream.requests()) == len(AGENCIES)
    process.stop()


def test_bad_events_are_put_aside(watch: Watch) -> None:
    """With all headers; a huge one without its value, which the dead-letter topic doesn't take."""
    upstream = watch(create=False)
    upstream.create(config={"max.message.bytes": "12000000"})
    producer = upstream.messages.producer(message_max_bytes=12_000_000)
    for value in (b"{", b"{}", b'{"agency_id": 0}', b'{"agency_id": 7, "x": "' + b"x" * 10_000_000 + b'"}'):
        producer.produce(upstream.topic, value=value, headers=[("x", b"1"), ("x", b"2")])
    producer.flush(20)
    upstream.happen([7])
    process = upstream.start()
    letters = upstream.messages.wait_for_dead_letters(4)
    assert {letter.header("dlq_reason") for letter in letters} == {"invalid_event"}
    assert sorted(len(letter.value or b"") for letter in letters) == [0, 1, 2, 16]
    assert all(letter.headers[:2] == (("x", b"1"), ("x", b"2")) for letter in letters if letter.value)
    assert upstream.wait_for_runs(1) == {7: 1}
    measured = process.metrics()
    assert measured["pipeline_dead_letters_total", "invalid_event"] == 4
    assert measured["pipeline_intake_messages_total", upstream.topic, "dead_letter"] == 4
    assert measured["pipeline_intake_messages_total", upstream.topic, "taken"] == 1
    assert measured["pipeline_server_up", f"topic {upstream.topic}"] == 1
    process.stop()


def test_a_topic_that_is_missing_is_waited_for(watch: Watch) -> None:
    """The log says so once, and the readiness until it is there."""
    upstream = watch(create=False)
    process = upstream.start()
    process.wait_until_said("holding windows")
    assert upstream.topic in body(process)
    assert not process.is_ready()
    upstream.create()
    eventually(process.is_ready, 30)
    upstream.happen([7])
    assert upstream.wait_for_runs(1) == {7: 1}
    assert len(process.complaints()) == 1
    process.stop()


def test_processes_with_different_files_are_told(watch: Watch) -> None:
    """Both identities are in the log, and in the readiness of the process that notices."""
    upstream = watch()
    first = upstream.start()
    first.wait_until_said("holding windows")
    other = upstream.file("other.yaml", debounce={"quiet_for": "3s"})
    second = upstream.start(PIPELINE_TRIGGERS_FILE=str(other))
    second.wait_until_said("holding windows")

    def noticed() -> bool:
        upstream.happen(AGENCIES)
        return all(process.said("another triggers file") for process in (first, second))

    eventually(noticed, 60)
    assert "another triggers file" in body(first)
    assert first.is_ready()
    assert set(upstream.wait_for_runs(len(AGENCIES))) == set(AGENCIES)


@pytest.mark.long
def test_a_paused_process_changes_nothing(watch: Watch) -> None:
    """When it goes on, it finds that another one has taken over, and takes its share again."""
    upstream = watch(debounce={"quiet_for": "4s"})
    first = upstream.start()
    upstream.happen(AGENCIES, times=20)
    upstream.wait_until_seen(len(AGENCIES))
    first.signal(signal.SIGSTOP)
    second = upstream.start()
    upstream.happen(AGENCIES, times=20)
    second.wait_until_said("holding windows")
    first.signal(signal.SIGCONT)
    first.wait_until_said("holding windows", times=2)
    assert upstream.wait_for_runs(len(AGENCIES)) == dict.fromkeys(AGENCIES, 1)
    first.stop()
    second.stop()


@pytest.mark.long
def test_an_outage_of_kafka_loses_and_doubles_nothing(watch: Watch) -> None:
    """The process waits for the brokers, and goes on."""
    with KafkaServer() as server:
        upstream = watch(debounce={"quiet_for": "4s"}, server=server)
        process = upstream.start()
        upstream.happen(AGENCIES, times=20)
        upstream.wait_until_seen(len(AGENCIES))
        server.stop()
        eventually(lambda: not process.is_ready(), 30)
        server.start()
        upstream.happen(AGENCIES, times=20)
        runs = upstream.wait_for_runs(len(AGENCIES), seconds=120)
        assert set(runs) == set(AGENCIES)
        eventually(process.is_ready, 60)
        process.stop()
