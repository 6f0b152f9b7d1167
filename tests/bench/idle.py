"""`serve` with nothing to do: how long it takes to be ready, and what it then uses."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from pipeline_processing.embedded.ports import free_ports
from tests.acceptance.kafka_side import Messages
from tests.bench.measuring import Contestant, Figures, cpu_of_threads, resident_mib
from tests.bench.setting import Bench, Checkout, job

_SETTLED_SECONDS = 35.0
"""From then on, a worker without runs looks for some less often."""
_LONGEST_SECONDS = 120.0


@contextmanager
def idle(bench: Bench, checkouts: Mapping[str, Checkout], *, seconds: float) -> Iterator[Sequence[Contestant]]:
    """One `serve` of each checkout, which is started anew each time and measured for so long when it is idle."""
    with Messages(bench.servers.kafka.bootstrap_servers, partitions=6) as messages:
        yield [
            Contestant(f"{prefix}serve", f"{prefix}`serve`", partial(_measure, bench, checkout, messages, seconds))
            for prefix, checkout in checkouts.items()
        ]


def _measure(bench: Bench, checkout: Checkout, messages: Messages, seconds: float) -> Figures:
    (port,) = free_ports(1)
    variables = bench.environment(
        bench.migrated(checkout, f"idle-{checkout.root.name}"),
        **messages.environment,
        PIPELINE_JOB_CONFIG_FILE=str(bench.file("idle.json", job("idle"))),
        PIPELINE_HTTP__PORT=str(port),
    )
    log = bench.folder / f"idle-{port}.log"
    started = time.perf_counter()
    with log.open("wb") as output:
        serve = subprocess.Popen(
            checkout.command("serve"), env=variables, cwd=checkout.root, stdout=subprocess.DEVNULL, stderr=output
        )
    try:
        _wait_until_ready(port, serve, log)
        figures = {"ready_s": time.perf_counter() - started, "ready_cpu_s": cpu_of_threads(serve.pid)}
        time.sleep(_SETTLED_SECONDS)  # being idle is what is measured
        cpu, began = cpu_of_threads(serve.pid), time.perf_counter()
        time.sleep(seconds)  # likewise
        used, passed = cpu_of_threads(serve.pid) - cpu, time.perf_counter() - began
        return {**figures, "idle_mib": resident_mib(serve.pid)[0], "idle_percent": 100 * used / passed}
    finally:
        serve.terminate()
        serve.wait(90)


def _wait_until_ready(port: int, serve: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.perf_counter() + _LONGEST_SECONDS
    while serve.poll() is None and time.perf_counter() < deadline:
        try:
            with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                answer.read()
            return
        except (URLError, OSError):  # not there yet, or 503
            time.sleep(0.01)  # poll, because `serve` doesn't notify us
    raise RuntimeError(f"`serve` isn't ready:\n{log.read_text()[-2000:]}")
