"""The queries by which KEDA scales `serve`, on a real history."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.history.postgres.migrate import migrate
from tests.deploy.chart import example, of_kind, rendered

PLACES = 2
FINISHED = 20_000

INSERT = """
INSERT INTO pipeline.runs (
    run_id, job, agency_id, state, request, dry_run, request_hash, priority, queued_at, not_before, fence,
    lease_expires_at, finished_at
)
SELECT gen_random_uuid()::text, 'agency_data_job', $1, $2, '{}', false, '', 0, now() - $3 * interval '1 second',
       now() + $4 * interval '1 second', 1,
       CASE WHEN $2 IN ('running', 'prepared') THEN now() + interval '1 minute' END,
       CASE WHEN $2 = 'succeeded' THEN now() END
FROM generate_series(1, $5)
"""


def triggers(places: int = PLACES) -> list[dict[str, Any]]:
    values = example("production", **{"settings.worker": {"max_runs_per_agency": places, "concurrency": 8}})
    (scaled,) = of_kind(rendered(values), "ScaledObject")
    return [each for each in scaled["spec"]["triggers"] if each["type"] == "postgresql"]


class History:
    """A migrated history, and what KEDA would read from it."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection

    async def add(
        self, agency_id: int, state: str, *, age: float = 0, not_before: float | None = None, runs: int = 1
    ) -> None:
        await self.connection.execute("INSERT INTO pipeline.agencies VALUES ($1) ON CONFLICT DO NOTHING", agency_id)
        await self.connection.execute(INSERT, agency_id, state, age, not_before, runs)

    async def read(self) -> tuple[float, float]:
        """Runs that can be in progress, and seconds that the oldest waits."""
        count, oldest = [await self.connection.fetchval(each["metadata"]["query"]) for each in triggers()]
        assert isinstance(count, float), "KEDA reads a double"
        assert isinstance(oldest, float)
        return count, oldest


@pytest.fixture
async def history(servers: EmbeddedServers) -> AsyncIterator[History]:
    name = f"keda_{uuid4().hex}"
    server = await asyncpg.connect(servers.postgres.dsn())
    await server.execute(f"CREATE DATABASE {name}")
    connection = await asyncpg.connect(servers.postgres.dsn(name))
    try:
        await migrate(connection, schema="pipeline")
        yield History(connection)
    finally:
        await connection.close()
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await server.close()


async def test_runs_that_can_be_in_progress_are_counted(history: History) -> None:
    """Those queued and due, running or prepared, but of each agency only as many as may run at once."""
    assert await history.read() == (0, 0)
    await history.add(1, "queued")
    await history.add(2, "running")
    await history.add(3, "prepared")
    await history.add(4, "queued", runs=1000)
    await history.add(5, "queued", not_before=600)
    await history.add(6, "queued", not_before=-1)
    await history.add(7, "succeeded", runs=10)
    await history.add(8, "running")
    await history.add(8, "queued", runs=10)
    count, _ = await history.read()
    assert count == 1 + 1 + 1 + PLACES + 1 + PLACES


async def test_only_runs_that_could_start_make_the_queue_old(history: History) -> None:
    """A run waits from when it is due, and one behind its agency's own runs isn't helped by more workers."""
    await history.add(1, "running", age=9000, runs=PLACES)
    await history.add(1, "queued", age=8000)
    await history.add(2, "queued", age=7000, not_before=600)
    await history.add(3, "queued", age=6000, not_before=-30)
    assert (await history.read())[1] == pytest.approx(30, abs=5)
    await history.add(4, "running", age=500)
    await history.add(4, "queued", age=400)
    assert (await history.read())[1] == pytest.approx(400, abs=5)


async def test_the_queries_read_only_unfinished_runs(history: History) -> None:
    """By indexes that hold nothing else, however long the history is."""
    await history.add(1, "succeeded", runs=FINISHED)
    for agency_id in range(2, 52):
        await history.add(agency_id, "queued", runs=20)
    await history.add(60, "running", runs=4)
    await history.connection.execute("VACUUM ANALYZE pipeline.runs")
    for each in triggers():
        explained = await history.connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT json) {each['metadata']['query']}")
        (plan,) = json.loads(explained)
        scans = list(_scans(plan["Plan"]))
        assert len(scans) == 2
        for scan in scans:
            assert scan["Node Type"] in ("Index Scan", "Index Only Scan", "Bitmap Heap Scan"), scan
            assert scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0) <= 1004


def _scans(plan: dict[str, Any]) -> Any:
    if plan.get("Relation Name") == "runs":
        yield plan
    for each in plan.get("Plans", ()):
        yield from _scans(each)


def test_workers_are_wanted_by_their_runs() -> None:
    """As many runs a worker as it takes at once; and the age multiplies workers, not runs."""
    by_count, by_age = triggers()
    assert (by_count["metricType"], by_count["metadata"]["targetQueryValue"]) == ("AverageValue", "8")
    assert (by_age["metricType"], by_age["metadata"]["targetQueryValue"]) == ("Value", "300")
