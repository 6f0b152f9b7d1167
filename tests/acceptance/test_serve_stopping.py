"""How a `serve` ends: it finishes what it has, or hands it back; and how a run is cancelled in the middle of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest

from pipeline_processing.embedded.kafka import KafkaServer
from tests.acceptance.fault_proxy import LOOPBACK, FaultProxy
from tests.acceptance.gate import GATED, Gate
from tests.acceptance.kafka_side import Messages
from tests.acceptance.service import HUGE, LARGE, SMALL, Service, published_in
from tests.acceptance.serving import Serving
from tests.watching import eventually

RUN = "stopped-1"


@pytest.fixture
def gated(service: Service, messages: Messages) -> Service:
    """A service whose runs of HUGE and LARGE can be held up."""
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(GATED))
    return service


def in_progress(service: Service, messages: Messages, gate: Gate, **settings: str) -> Serving:
    """A `serve` in the middle of a run of HUGE."""
    messages.send({"agency_id": HUGE, "run_id": RUN})
    serve = service.serve(env={f"PIPELINE_WORKER__{name.upper()}": value for name, value in settings.items()})
    gate.wait_for_run()
    serve.wait_until_taking()
    return serve


def test_what_is_in_progress_is_finished_and_nothing_else_is_taken(gated: Service, messages: Messages) -> None:
    """SIGTERM: the run ends as ever, and its event is sent before the process ends; the next one stays queued."""
    with Gate(gated, HUGE) as gate:
        serve = in_progress(gated, messages, gate, concurrency="1")
        messages.send({"agency_id": SMALL, "run_id": "next-1"})
        eventually(lambda: gated.state("next-1") == "queued")
        assert serve.is_ready()

        serve.signal(signal.SIGTERM)

        serve.wait_until_said("stopping")
        assert (serve.is_ready(), serve.is_alive()) == (False, True)
        # It has left the group: what is sent from now on is for others.
        messages.wait_for_members(0)
        messages.send({"agency_id": SMALL, "run_id": "later-1"})
        gate.open()
        serve.ended()

    assert gated.outcomes(RUN) == ["succeeded"]
    published_in(gated, RUN, HUGE)
    assert [event.json["run_id"] for event in messages.completions()] == [RUN]
    assert (gated.state("next-1"), gated.attempts("next-1"), gated.state("later-1")) == ("queued", [], None)
    assert gated.pending_uploads() == []

    gated.serve("--once").ended()
    assert {event.json["run_id"] for event in messages.completions()} == {RUN, "next-1", "later-1"}


@pytest.mark.parametrize(("drain_seconds", "signals"), [("1", 1), ("60", 2)])
def test_what_isnt_finished_in_time_is_handed_back(
    gated: Service, messages: Messages, drain_seconds: str, signals: int
) -> None:
    """
    When the drain time is over, or at a second signal, the run goes on elsewhere within 2 s; the try doesn't count, and
    no upload of it is left.
    """
    with Gate(gated, HUGE) as gate:
        first = in_progress(gated, messages, gate, drain_seconds=drain_seconds, max_attempts="1")
        second = gated.serve(env={"PIPELINE_WORKER__MAX_ATTEMPTS": "1"})
        messages.wait_for_members(2)
        (lost,) = gated.pending_uploads()

        for _ in range(signals):
            first.signal(signal.SIGTERM)
            first.wait_until_said("stopping")
        first.ended(seconds=float(drain_seconds) % 60 + 10)

        gate.wait_for_run()
        assert lost not in gated.pending_uploads()
        gate.open()
        (event,) = messages.wait_for_completions(1)
        second.stop()

    assert (event.json["state"], event.json["attempt"]) == ("succeeded", 2)
    assert gated.outcomes(RUN) == ["handed_back", "succeeded"]
    before, after = gated.attempts(RUN)
    assert after["started_at"] - before["finished_at"] < timedelta(seconds=2)
    assert before["worker"] != after["worker"]
    published_in(gated, RUN, HUGE)
    assert (gated.pending_uploads(), gated.recorded_uploads()) == ([], [])


@pytest.fixture
def own_kafka() -> Iterator[KafkaServer]:
    """A Kafka that this test may halt."""
    with KafkaServer() as running:
        yield running


@pytest.mark.parametrize("history_too", [False, True])
def test_a_drain_lasts_no_longer_whatever_hangs(service: Service, own_kafka: KafkaServer, history_too: bool) -> None:
    """
    With S3, the source, Kafka and the collector of traces silent, a run is handed back in the drain time, and the
    process ends with it, also if even the history is silent.
    """
    postgres, s3 = service.servers.postgres, service.servers.seaweedfs
    drain_seconds = 4.0
    with contextlib.ExitStack() as stack:
        messages = stack.enter_context(Messages(own_kafka.bootstrap_servers))
        service.environment |= messages.environment
        service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(GATED))
        service.environment["PIPELINE_HISTORY__DSN"] = service.environment["PIPELINE_SOURCE__DSN"]
        collector = stack.enter_context(socket.create_server((LOOPBACK, 0)))  # takes connections, and says nothing
        source, history, store = (
            stack.enter_context(FaultProxy(port)) for port in (postgres.port, postgres.port, s3.port)
        )
        near, far = f":{postgres.port}/", "PIPELINE_SOURCE__DSN"
        gate = stack.enter_context(Gate(service, HUGE))
        first = service.serve(
            env={
                far: service.environment[far].replace(near, f":{source.port}/"),
                "PIPELINE_HISTORY__DSN": service.environment[far].replace(near, f":{history.port}/"),
                "PIPELINE_S3__ENDPOINT_URL": f"http://{LOOPBACK}:{store.port}",
                "PIPELINE_WORKER__DRAIN_SECONDS": str(drain_seconds),
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{LOOPBACK}:{collector.getsockname()[1]}",
            }
        )
        first.wait_until_taking()
        messages.send({"agency_id": HUGE, "run_id": RUN})
        gate.wait_for_run()
        second = service.serve()
        messages.wait_for_members(2)

        os.kill(own_kafka.pid, signal.SIGSTOP)
        stack.callback(os.kill, own_kafka.pid, signal.SIGCONT)
        for proxy in (source, store, *([history] if history_too else [])):
            stack.enter_context(proxy.hanging())
        told_at = time.monotonic()
        first.signal(signal.SIGTERM)
        first.ended(seconds=drain_seconds + 6)

        assert time.monotonic() - told_at < drain_seconds + 6
        if history_too:
            assert service.outcomes(RUN) == ["running"], "its lease ends by itself"
            return
        eventually(lambda: service.outcomes(RUN)[:2] == ["handed_back", "running"], 10)
        before, after = service.attempts(RUN)[:2]
        assert after["started_at"] - before["finished_at"] < timedelta(seconds=2)
        gate.open()
        eventually(lambda: service.state(RUN) == "succeeded", 60)
        os.kill(own_kafka.pid, signal.SIGCONT)
        second.stop()
    published_in(service, RUN, HUGE)


def test_a_run_in_progress_is_cancelled(gated: Service, messages: Messages) -> None:
    """It stops within seconds, leaves no upload and one event, and its `serve` goes on with others."""
    with Gate(gated, HUGE) as gate:
        serve = in_progress(gated, messages, gate, concurrency="1")
        messages.send({"agency_id": SMALL, "run_id": "next-1"})

        assert gated.cli("cancel", RUN).returncode == 0

        eventually(lambda: not gated.pending_uploads(), 5)
        messages.wait_for_completions(1, run_id="next-1")
        assert gate.waiting() == 0, "its query has ended, too"
        serve.stop()

    (event,) = messages.completions(RUN)
    assert event.header("ce_type") == "agency.run.cancelled"
    assert (event.json["state"], event.json["manifest"], event.json["attempt"]) == ("cancelled", None, 1)
    assert gated.outcomes(RUN) == ["cancelled"]
    assert not [key for key in gated.listed() if RUN in key]
    assert (gated.pending_uploads(), gated.recorded_uploads()) == ([], [])


def test_a_queued_run_is_cancelled(gated: Service, messages: Messages) -> None:
    """It never begins, and one event says so."""
    with Gate(gated, LARGE) as gate:
        messages.send({"agency_id": LARGE, "run_id": "first-1"})
        serve = gated.serve()
        gate.wait_for_run()
        messages.send({"agency_id": LARGE, "run_id": RUN})
        eventually(lambda: gated.state(RUN) == "queued")

        assert gated.cli("cancel", RUN).returncode == 0

        (event,) = messages.wait_for_completions(1, run_id=RUN)
        gate.open()
        messages.wait_for_completions(1, run_id="first-1")
        serve.stop()

    assert (event.json["state"], event.json["started_at"], event.json["attempt"]) == ("cancelled", None, 0)
    assert len(messages.completions(RUN)) == 1
    assert gated.attempts(RUN) == []
