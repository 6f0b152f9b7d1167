"""What runs cost, as history, manifest and event tell it, and what the process of a `serve` has used for them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from pipeline_processing.embedded.kafka import KafkaServer
from tests.acceptance.service import PREFIX, NewService, one_dataset
from tests.acceptance.shared_serve import Shared, shared_serve
from tests.watching import eventually

RUNS = {f"billed-{number}": 1 + number % 7 for number in range(20)}
JOB = one_dataset(
    "SELECT n AS id, md5(n::text) AS a, md5((-n)::text) AS b FROM generate_series(1, 4000 * $1::int) AS n",
    steps=[{"mask": {"columns": ["a"], "using": "sha256"}}, {"derive": {"c": "upper(b) || a"}}],
)
"""The more rows, the larger the agency's number: up to a few megabytes."""


@pytest.fixture(scope="module")
def shared(new_service: NewService, kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    with new_service(tmp_path_factory.mktemp("bills")) as service, shared_serve(service, kafka, job=JOB) as opened:
        yield opened


def cpu_seconds(pid: int) -> float:
    """The processor time of all threads of a process, by its clock as `clock_getcpuclockid` names it."""
    return time.clock_gettime(~pid << 3 | 2)


def test_bills_add_up_to_what_the_process_has_used(shared: Shared) -> None:
    """
    From the end of a first run, to which starting is charged as far as it is, to that of the last one: within 2 %, and
    0.1 s, which is the most that a run is charged of what was used before it.
    """
    service, messages = shared.service, shared.messages
    messages.send({"agency_id": 1, "run_id": "first"})
    shared.wait_for_event("first")
    before = cpu_seconds(shared.serve.pid)

    messages.send(*[{"agency_id": agency_id, "run_id": run_id} for run_id, agency_id in RUNS.items()])
    all_finished = "SELECT FROM pipeline.runs WHERE finished_at IS NOT NULL HAVING count(*) = $1"
    eventually(lambda: service.sql(all_finished, len(RUNS) + 1), 60)
    used = cpu_seconds(shared.serve.pid) - before

    bills = {run_id: service.history(run_id)["bill"] for run_id in RUNS}
    billed = sum(bill["client_cpu_ms"] for bill in bills.values()) / 1000
    assert abs(billed - used) <= 0.02 * used + 0.1
    told = {event.json["run_id"]: event.json["bill"] for event in messages.wait_for_completions(len(RUNS) + 1)}
    for run_id, agency_id in RUNS.items():
        ((_, stored),) = service.objects(f"{PREFIX}/agency_id={agency_id}/run_id={run_id}/_manifest.json").items()
        manifest = json.loads(stored.body)
        assert manifest["bill"] == bills[run_id] == told[run_id]
        (entry,) = manifest["entries"]
        assert bills[run_id]["bytes_written"] == entry["meta"]["content_length"]
        assert bills[run_id]["bytes_read"] > 4000 * agency_id * 64
        assert bills[run_id]["database_ms"] > 0
