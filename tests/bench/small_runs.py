"""
Thousands of small runs through Kafka, by one or two `serve` processes, into a cheap S3 sink: runs a second, CPU of a
run, and the latency from request to event at half that load.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from statistics import quantiles

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.acceptance.kafka_side import Messages
from tests.bench.measuring import Contestant, CpuOfTree, Figures, resident_mib
from tests.bench.setting import Bench, Checkout, job, traced

SMALL = """
    CREATE TABLE {name} AS
    SELECT agency_id * 1000 + n AS id, agency_id, 'name ' || n AS name, n * 1.10 AS amount,
           timestamptz '2026-01-01' + n * interval '1 hour' AS created_at
    FROM generate_series(1::bigint, {rows} / 100) AS agency_id, generate_series(1, 100) AS n;
    CREATE INDEX ON {name} (agency_id, id);
"""
AGENCIES = 200
"""Of 100 rows each."""

_WARM_UP_RUNS = 100
_LONGEST_SECONDS = 300.0
_numbers = count()


@dataclass
class Fleet:
    """`serve` processes of one group, and the messages that they answer."""

    bench: Bench
    messages: Messages
    pids: Sequence[int]
    consumer: Consumer
    _cpu: Sequence[CpuOfTree] = field(init=False)
    _producer: Producer = field(init=False)

    def __post_init__(self) -> None:
        self._cpu = [CpuOfTree(pid) for pid in self.pids]
        self._producer = self.messages.producer()

    def request(self) -> str:
        """Ask for a run, and return its id."""
        number = next(_numbers)
        run_id = f"run-{number}"
        value = json.dumps({"agency_id": 1 + number % AGENCIES, "run_id": run_id})
        self._producer.produce(self.messages.requests_topic, value, partition=number % self.messages.partitions)
        self._producer.poll(0)
        return run_id

    def events(self, runs: int) -> dict[str, float]:
        """Wait for the events of this many runs. Returns when each came."""
        came: dict[str, float] = {}
        deadline = time.perf_counter() + _LONGEST_SECONDS
        while len(came) < runs:
            assert time.perf_counter() < deadline, f"{len(came)} of {runs} runs within {_LONGEST_SECONDS:g} s"
            message = self.consumer.poll(1.0)
            if message is None:
                continue
            assert message.error() is None, message.error()
            event = json.loads(message.value() or b"{}")
            assert event["state"] == "succeeded", event
            came[event["run_id"]] = time.perf_counter()
        return came

    def throughput(self, runs: int) -> Figures:
        """Request all runs at once, and measure until the last event."""
        cpu_before, server_before = self._used(), self.bench.server_cpu()
        started = time.perf_counter()
        for _ in range(runs):
            self.request()
        self._producer.flush(60)
        self.events(runs)
        seconds = time.perf_counter() - started
        cpu, server_cpu = self._used() - cpu_before, self.bench.server_cpu() - server_before
        return {
            "runs_per_second": runs / seconds,
            "cpu_ms": cpu / runs * 1000,
            "server_cpu_ms": server_cpu / runs * 1000,
            "peak_mib": max(resident_mib(pid)[1] for pid in self.pids),
        }

    def latency(self, rate: float, seconds: float) -> Figures:
        """Request runs evenly at this rate, and measure each from its request to its event."""
        runs = round(rate * seconds)
        asked: dict[str, float] = {}

        def ask() -> None:
            begin = time.perf_counter()
            for number in range(runs):
                # Requests come at fixed times, whatever has become of earlier ones: there is no event to wait for.
                time.sleep(max(0.0, begin + number / rate - time.perf_counter()))
                now = time.perf_counter()
                asked[self.request()] = now
            self._producer.flush(60)

        asking = threading.Thread(target=ask)
        asking.start()
        came = self.events(runs)
        asking.join()
        cuts = quantiles([1000 * (came[run_id] - asked[run_id]) for run_id in asked], n=100, method="inclusive")
        return {"rate": rate, "p50_ms": cuts[49], "p99_ms": cuts[98]}

    def _used(self) -> float:
        return sum(cpu() for cpu in self._cpu)


@contextmanager
def fleet(
    bench: Bench, checkout: Checkout, *, processes: int = 1, env: Mapping[str, str] | None = None
) -> Iterator[Fleet]:
    """Run this many `serve` processes inside the block, with topics of their own and the checkout's history."""
    with ExitStack() as stack:
        messages = stack.enter_context(Messages(bench.servers.kafka.bootstrap_servers, partitions=6))
        history = f"small-{next(_numbers)}"
        bench.migrated(checkout, history)
        variables = bench.environment(
            history,
            **messages.environment,
            PIPELINE_JOB_CONFIG_FILE=str(bench.file("small.json", job("small"))),
            PIPELINE_HTTP__PORT="0",
            **(env or {}),
        )
        pids = []
        for number in range(processes):
            log = stack.enter_context((bench.folder / f"{history}-{number}.log").open("wb"))
            serve = subprocess.Popen(
                checkout.command("serve"), env=variables, cwd=checkout.root, stdout=subprocess.DEVNULL, stderr=log
            )
            stack.callback(_stop, serve, Path(log.name))
            pids.append(serve.pid)
        messages.wait_for_members(processes)
        consumer = Consumer({"bootstrap.servers": messages.bootstrap_servers, "group.id": "bench"})
        stack.callback(consumer.close)
        consumer.assign([TopicPartition(messages.completions_topic, at, 0) for at in range(messages.partitions)])
        running = Fleet(bench=bench, messages=messages, pids=pids, consumer=consumer)
        running.throughput(_WARM_UP_RUNS)
        yield running


def _stop(serve: subprocess.Popen[bytes], log: Path) -> None:
    serve.terminate()
    if code := serve.wait(90):
        raise RuntimeError(f"`serve` ended with code {code}:\n{log.read_text()[-2000:]}")


@contextmanager
def small_runs(
    bench: Bench, checkouts: Mapping[str, Checkout], *, runs: int, seconds: float
) -> Iterator[list[Contestant]]:
    """All contestants: one process with and without tracing, and two. Their processes run inside the block."""
    contestants = []
    with ExitStack() as stack:

        def add(key: str, label: str, checkout: Checkout, *, latency: bool = False, **options: object) -> None:
            running = stack.enter_context(fleet(bench, checkout, **options))  # type: ignore[arg-type]
            contestants.append(Contestant(key, label, partial(measure, running, latency=latency)))

        def measure(running: Fleet, *, latency: bool) -> Figures:
            figures = running.throughput(runs)
            return {**figures, **(running.latency(figures["runs_per_second"] / 2, seconds) if latency else {})}

        for prefix, checkout in checkouts.items():
            add(f"{prefix}one", f"{prefix}one `serve`", checkout, latency=True)
        add("one-traced", "one `serve`, traced", checkouts[""], env=traced(bench))
        add("two", "two `serve`", checkouts[""], processes=2)
        yield contestants
