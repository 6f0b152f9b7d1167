"""
A real Prometheus scrapes a real `serve` and `triggers`, evaluates the rules of `deploy/`, and answers the dashboard.

To save time, minutes in rules are seconds here.
"""

import json
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline_processing.embedded.kafka import KafkaServer
from pipeline_processing.embedded.ports import LOOPBACK
from tests.acceptance.service import JOB, LARGE, OTHER, SMALL, NewService
from tests.acceptance.serving import Serving
from tests.acceptance.shared_serve import Shared, shared_serve
from tests.acceptance.upstream import Upstream
from tests.prometheus import Prometheus
from tests.watching import eventually

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/pipeline-processing.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

AWAY = f"http://{LOOPBACK}:9"
"""Nothing listens there."""

UPSTREAM = {"name": "tickets", "source": {"http": {"url": f"{AWAY}/{{agency_id}}", "columns": {"id": "integer"}}}}
"""A dataset of an API that is away."""

FAILURES, LETTERS = 3, 8


def sixty_times_faster(rules: str) -> str:
    """Return rules with seconds for minutes, and minutes for hours, in ranges and waits."""
    return re.sub(r"(?<!\w)(\d+)([mh])\b", lambda found: found[1] + {"m": "s", "h": "m"}[found[2]], rules)


@pytest.fixture(scope="module")
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture(scope="module")
def shared(
    stack: ExitStack, new_service: NewService, kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory
) -> Shared:
    """A `serve` that fails each run of `tickets` at once, and whose webhook is away."""
    service = stack.enter_context(new_service(tmp_path_factory.mktemp("monitoring")))
    env = {
        "PIPELINE_WORKER__MAX_ATTEMPTS": "1",
        "PIPELINE_WEBHOOKS__BILLING__URL": AWAY,
        "PIPELINE_WEBHOOKS__BILLING__KEY": "0123456789abcdef",
    }
    job = {**JOB, "datasets": [*JOB["datasets"], UPSTREAM]}
    return stack.enter_context(shared_serve(service, kafka, job=job, env=env))


@pytest.fixture(scope="module")
def prometheus(stack: ExitStack, shared: Shared) -> Prometheus:
    """Scrapes a `serve` with runs, and a `triggers` with an open window."""
    upstream = Upstream(
        shared.messages,
        environment=shared.service.environment,
        folder=shared.service.folder,
        debounce={"quiet_for": "1h", "at_latest_after": "1h"},
    )
    stack.callback(upstream.close)
    upstream.create()
    triggers = upstream.start()
    upstream.happen([SMALL])
    # Of several agencies, so that they run at once.
    requests = [
        *(
            {"agency_id": agency, "datasets": ["records"], "run_id": f"run-{agency}"}
            for agency in (SMALL, LARGE, OTHER)
        ),
        *({"agency_id": 100 + n, "datasets": ["tickets"], "run_id": f"failing-{n}"} for n in range(FAILURES)),
    ]
    shared.messages.send(*requests, *[{"agency_id": 0}] * LETTERS)
    targets = {"pipeline-serve": _address(shared.serve), "pipeline-triggers": _address(triggers)}
    rules = {
        path.name: sixty_times_faster(path.read_text("utf-8"))
        for path in (DEPLOY / "prometheus/recording.yml", DEPLOY / "prometheus/alerts.yml")
    }
    started = stack.enter_context(Prometheus(targets=targets, rules=rules))
    for request in requests:
        shared.wait_for_event(request["run_id"])
    eventually(lambda: len(started.query("pipeline_build_info")) == len(targets))
    return started


def _address(process: Serving) -> str:
    return str(process.wait_until_said("answering /livez and /readyz")["addresses"][0])


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_no_panel_is_empty(prometheus: Prometheus, panel: dict[str, list[dict[str, str]]]) -> None:
    """Every query of the dashboard gives numbers, now or a moment ago."""
    for target in panel["targets"]:
        query = target["expr"].replace("$namespace", ".*").replace("$__rate_interval", "15s")
        since_the_start = f"last_over_time(({query})[10m:1s])"
        eventually(lambda asked=since_the_start: prometheus.query(asked))


def test_what_is_counted_reaches_the_dashboard(prometheus: Prometheus) -> None:
    """Runs by their end, and dead letters."""

    def counted(metric: str) -> float:
        return sum(float(sample["value"][1]) for sample in prometheus.query(f"pipeline_{metric}"))

    eventually(lambda: counted('runs_finished_total{error_type="upstream_unavailable"}') == FAILURES)
    eventually(lambda: counted('runs_finished_total{state="succeeded"}') == 3)
    eventually(lambda: counted("dead_letters_total") == LETTERS)


def test_alerts_fire(prometheus: Prometheus, shared: Shared) -> None:
    """For runs that fail, and messages that nobody can use; then for a process that hangs."""
    for alert in ("PipelineRunsFailing", "PipelineDeadLetters"):
        fired = f'max_over_time(ALERTS{{alertname="{alert}", alertstate="firing"}}[10m])'
        assert eventually(lambda asked=fired: prometheus.query(asked)), alert
    hangs = {"PipelineWorkerAbsent", "PipelineProcessDown"}
    assert not prometheus.firing() & hangs
    shared.serve.signal(signal.SIGSTOP)
    try:
        eventually(lambda: hangs <= prometheus.firing(), 30)
    finally:
        shared.serve.signal(signal.SIGCONT)
