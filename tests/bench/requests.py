"""
Measures the rate at which requests are accepted, and the latency from the request of a small run to its event, on real
servers, from outside.

    python -m tests.bench.requests
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from pipeline_processing.embedded.servers import EmbeddedServers, embedded_servers
from tests.acceptance.conftest import create_template
from tests.acceptance.service import SMALL, Service, one_dataset
from tests.acceptance.shared_serve import Shared, shared_serve
from tests.watching import eventually

SLOW = one_dataset("SELECT 1 AS id, $1::bigint AS agency_id, pg_sleep(60)::text AS pause")
"""So slow that only the intake is measured."""
RECORDS = one_dataset("SELECT id, name, status, amount FROM records WHERE agency_id = $1 ORDER BY id")
"""Twelve rows, one artifact."""


@contextmanager
def serving(servers: EmbeddedServers, name: str, *, job: dict[str, Any], **env: str) -> Iterator[Shared]:
    """Run a `serve` with its own database, bucket and topics."""
    servers.seaweedfs.create_bucket(name)
    create_template(servers, name)
    with tempfile.TemporaryDirectory() as folder:
        service = Service(servers=servers, database=name, bucket=name, folder=Path(folder))
        try:
            with shared_serve(service, servers.kafka, job=job, env=env) as shared:
                yield shared
        finally:
            service.close()


def requests_per_second(shared: Shared, requests: int) -> None:
    """Measure from the first request sent to the last run queued."""
    producer = shared.messages.producer(linger_ms=20)
    started = time.perf_counter()
    for number in range(requests):
        value = json.dumps({"agency_id": 1 + number % 1000, "run_id": f"run-{number}"})
        producer.produce(shared.messages.requests_topic, value, partition=number % shared.messages.partitions)
        producer.poll(0)
    assert producer.flush(60) == 0
    sent = time.perf_counter() - started
    count = "SELECT count(*) AS runs, max(queued_at) - min(queued_at) AS taking FROM pipeline.runs"
    (row,) = eventually(lambda: [row for row in shared.service.sql(count) if row["runs"] == requests], 600)
    took, taking = time.perf_counter() - started, row["taking"].total_seconds()
    print(
        f"{requests:,} requests: sent in {sent:.2f} s, all queued after {took:.2f} s = {requests / took:,.0f}/s "
        f"({requests / taking:,.0f}/s between the first and the last that was queued)",
        flush=True,
    )


def from_request_to_event(shared: Shared, runs: int) -> None:
    """Measure runs one after the other, each from before its request is sent until a consumer has its event."""
    messages = shared.messages
    consumer = Consumer({"bootstrap.servers": messages.bootstrap_servers, "group.id": "bench"})
    consumer.assign([TopicPartition(messages.completions_topic, number, 0) for number in range(messages.partitions)])
    seconds = []
    try:
        for number in range(runs + 1):
            run_id = f"run-{number}"
            started = time.perf_counter()
            messages.send({"agency_id": SMALL, "run_id": run_id}, partition=number % messages.partitions)
            while (event := consumer.poll(60)) is None or json.loads(event.value() or b"{}").get("run_id") != run_id:
                assert event is None or event.error() is None, event.error()
            seconds.append(time.perf_counter() - started)
    finally:
        consumer.close()
    seconds = seconds[1:]  # without the first, which opens connections
    percentiles = quantiles(seconds, n=100, method="inclusive")
    print(
        f"{runs} small runs one by one, from request to event: p50 {1000 * percentiles[49]:.0f} ms, "
        f"p99 {1000 * percentiles[98]:.0f} ms, longest {1000 * max(seconds):.0f} ms"
    )
    rows = shared.service.sql("SELECT queued_at, started_at, finished_at FROM pipeline.runs")
    print(
        f"of that, medians: queued to claimed {1000 * median(_between(rows, 'queued_at', 'started_at')):.0f} ms, "
        f"claimed to finished {1000 * median(_between(rows, 'started_at', 'finished_at')):.0f} ms"
    )


def _between(rows: list[dict[str, Any]], before: str, after: str) -> list[float]:
    return [(row[after] - row[before]).total_seconds() for row in rows]


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.requests", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    with embedded_servers() as servers:
        with serving(
            servers, "taking", job=SLOW, PIPELINE_WORKER__CONCURRENCY="1", PIPELINE_WORKER__DRAIN_SECONDS="0"
        ) as shared:
            requests_per_second(shared, options.requests)
        with serving(servers, "running", job=RECORDS) as shared:
            from_request_to_event(shared, options.runs)


if __name__ == "__main__":
    main()
