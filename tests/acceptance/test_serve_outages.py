"""
Servers that go away while `serve` needs them, and come back: said once, nothing lost.

OUTAGE_SECONDS sets how long they are away, at least; minutes will do for a trial by hand.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline_processing.embedded.kafka import KafkaServer
from pipeline_processing.embedded.postgres import PostgresServer
from pipeline_processing.embedded.seaweedfs import SeaweedFSServer
from pipeline_processing.embedded.server import EmbeddedServer
from pipeline_processing.embedded.servers import EmbeddedServers
from tests.acceptance.conftest import create_template
from tests.acceptance.gate import GATED, Gate
from tests.acceptance.kafka_side import Messages
from tests.acceptance.service import HUGE, SMALL, Service, published_in
from tests.acceptance.serving import Serving
from tests.watching import eventually

OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "8"))


@pytest.fixture
def own_kafka() -> Iterator[KafkaServer]:
    """A Kafka that this test may stop."""
    with KafkaServer() as running:
        yield running


class Outage:
    """A server that is stopped inside the block; up again, it was away for OUTAGE_SECONDS at least."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server

    def __enter__(self) -> None:
        self._began_at = time.monotonic()
        self._server.stop()

    def __exit__(self, *error: object) -> None:
        if error == (None, None, None):
            eventually(lambda: time.monotonic() - self._began_at >= OUTAGE_SECONDS, OUTAGE_SECONDS + 10)
        self._server.start()


def says_that_it_is_away(serve: Serving, server: str, *, times: int = 1) -> None:
    """It isn't ready, names the server, and is alive."""
    serve.wait_until_said(f"{server} can't be used", times=times)
    status, answer = serve.ask("/readyz")
    assert (status, answer["status"]) == (503, "unavailable")
    assert any(problem.startswith(f"{server}: ") for problem in answer["problems"]), answer
    assert serve.is_alive()


def says_that_it_is_back(serve: Serving, server: str, *, times: int = 1) -> None:
    """It is ready again, and has said so once."""
    serve.wait_until_said(f"{server} is back", times=times)
    eventually(serve.is_ready, 30)
    assert serve.is_alive()
    assert len(serve.said(f"{server} is back")) == times


def says_nothing_twice(serve: Serving) -> None:
    """No complaint was repeated, unless of another run or another try."""
    said = Counter((line["event"], line.get("run_id"), line.get("attempt")) for line in serve.complained())
    assert not {line: times for line, times in said.items() if times > 1}


def test_kafka_is_away(own_kafka: KafkaServer, service: Service) -> None:
    """At the start and in the middle: one line for each, accepted runs go on without it, and every event arrives."""
    with Messages(own_kafka.bootstrap_servers) as messages, Gate(service, HUGE) as gate:
        service.environment.update(messages.environment)
        service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(GATED))
        messages.send({"agency_id": SMALL, "run_id": "first-1"})

        with Outage(own_kafka):
            serve = service.serve(env={"PIPELINE_WORKER__CONCURRENCY": "1"})
            says_that_it_is_away(serve, "Kafka")
        says_that_it_is_back(serve, "Kafka")
        messages.wait_for_completions(1)

        messages.send({"agency_id": HUGE, "run_id": "long-1"})
        gate.wait_for_run()
        waiting = [f"waiting-{number}" for number in range(10)]
        messages.send(*[{"agency_id": SMALL, "run_id": run_id} for run_id in waiting])
        messages.wait_until_taken()
        unread = [f"unread-{number}" for number in range(10)]
        messages.send(*[{"agency_id": SMALL, "run_id": run_id} for run_id in unread])
        with Outage(own_kafka):
            says_that_it_is_away(serve, "Kafka", times=2)
            gate.open()
            eventually(lambda: all(service.state(run_id) == "succeeded" for run_id in ["long-1", *waiting]), 60)
            unsent = service.sql("SELECT run_id FROM pipeline.outbox WHERE sent_at IS NULL")
            assert {"long-1", *waiting} <= {row["run_id"] for row in unsent}
        says_that_it_is_back(serve, "Kafka", times=2)

        messages.send({"agency_id": SMALL, "run_id": "last-1"})
        everything = {"first-1", "long-1", *waiting, *unread, "last-1"}
        events = messages.wait_for_completions(len(everything))
        eventually(lambda: {event.json["run_id"] for event in messages.completions()} == everything)
        assert {event.json["state"] for event in events} == {"succeeded"}
        done = serve.stop()

    assert serve.complaints() == ["Kafka can't be used; retrying until it can"] * 2, done.stderr
    assert {run_id for run_id in everything if service.outcomes(run_id) != ["succeeded"]} == set()


@pytest.fixture
def own_service(servers: EmbeddedServers, kafka: KafkaServer, tmp_path: Path) -> Iterator[Service]:
    """A service with a Postgres and an S3 that this test may stop."""
    with PostgresServer() as postgres, SeaweedFSServer() as seaweedfs:
        own = EmbeddedServers(postgres=postgres, seaweedfs=seaweedfs, kafka=kafka)
        create_template(own, "own")
        seaweedfs.create_bucket("own")
        service = Service(servers=own, database="own", bucket="own", folder=tmp_path)
        try:
            yield service
        finally:
            service.close()


def test_the_history_is_away(own_service: Service, service: Service, messages: Messages) -> None:
    """Runs in progress outlast it within their lease; requests that come meanwhile are accepted when it is back."""
    # The history is the one that goes; what is read stays, so that runs are in progress meanwhile.
    reading = service
    serving = own_service
    serving.environment.update(messages.environment)
    serving.environment["PIPELINE_SOURCE__DSN"] = reading.environment["PIPELINE_SOURCE__DSN"]
    serving.environment["PIPELINE_HISTORY__DSN"] = serving.servers.postgres.dsn(serving.database)
    serving.environment["PIPELINE_JOB_CONFIG_FILE"] = str(serving.job_config(GATED))
    lease = {"PIPELINE_WORKER__LEASE_SECONDS": str(3 * OUTAGE_SECONDS)}
    with Gate(reading, HUGE) as gate:
        messages.send({"agency_id": HUGE, "run_id": "long-1"})
        serve = serving.serve(env=lease)
        eventually(lambda: gate.waiting() and serving.pending_uploads())
        with Outage(serving.servers.postgres):
            meanwhile = [f"meanwhile-{number}" for number in range(10)]
            messages.send(*[{"agency_id": SMALL, "run_id": run_id} for run_id in meanwhile])
            says_that_it_is_away(serve, "the history")
            gate.open()  # the run comes to its decision now, and can't write it
            eventually(lambda: gate.waiting() == 0)
        says_that_it_is_back(serve, "the history")

        everything = {"long-1", *meanwhile}
        events = messages.wait_for_completions(len(everything))
        assert {event.json["run_id"] for event in events} == everything
        done = serve.stop()

    # Its worker was about to store what it had uploaded, or to tell of it: that may cost the run a try, and no more.
    assert serving.outcomes("long-1") in (["succeeded"], ["retrying", "succeeded"])
    assert {run_id for run_id in meanwhile if serving.outcomes(run_id) != ["succeeded"]} == set()
    published_in(serving, "long-1", HUGE)
    # An attempt that could neither tell of its upload nor clean up, as there was no history, leaves it to gc.
    assert serving.cli("gc").returncode == 0
    assert serving.pending_uploads() == []
    assert serve.complaints().count("the history can't be used; retrying until it can") == 1, done.stderr
    says_nothing_twice(serve)


def test_the_destination_is_away(own_service: Service, messages: Messages) -> None:
    """
    What is in progress and what comes meanwhile is tried again, in the end one run at a time, until it is back, and
    leaves no upload behind.
    """
    service = own_service
    service.environment.update(messages.environment)
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(GATED))
    serve = service.serve(env={"PIPELINE_WORKER__MAX_ATTEMPTS": "2"})
    with Gate(service, HUGE) as gate:
        messages.send({"agency_id": HUGE, "run_id": "long-1"})
        gate.wait_for_run()
        with Outage(service.servers.seaweedfs):
            messages.send({"agency_id": SMALL, "run_id": "meanwhile-1"})
            gate.open()
            for run_id in ("long-1", "meanwhile-1"):
                eventually(lambda run_id=run_id: "retrying" in service.outcomes(run_id), 60)
            serve.wait_until_said("the destination can't be used")
            status, answer = serve.ask("/readyz")
            assert (status, len(answer["notes"])) == (200, 1)
            assert answer["notes"][0].startswith("the destination can't be used, so one run at a time tries it: ")
            assert serve.is_alive()
        for run_id in ("long-1", "meanwhile-1"):
            (event,) = messages.wait_for_completions(1, run_id=run_id, seconds=120)
            assert event.json["state"] == "succeeded"
        eventually(serve.is_ready)
        serve.wait_until_said("the destination is back")
        assert "notes" not in serve.ask("/readyz")[1]
        serve.stop()

    assert service.cli("gc").returncode == 0
    assert (service.pending_uploads(), service.recorded_uploads()) == ([], [])
    published_in(service, "long-1", HUGE)
    published_in(service, "meanwhile-1", SMALL)
    says_nothing_twice(serve)
