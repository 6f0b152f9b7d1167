"""
Measures the board on a long history: how soon it answers, how soon a browser shows it, its memory, what 20 open pages
cost the database, and how soon a change of a run reaches them. Then what progress events cost a run.

    python -m tests.bench.board
"""

import argparse
import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg

from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.embedded.servers import EmbeddedServers, embedded_servers
from pipeline_processing.history.postgres.migrate import migrate
from pipeline_processing.messaging.kafka.events import KafkaEvents
from pipeline_processing.messaging.kafka.topics import KafkaTopics
from pipeline_processing.model import RunState
from pipeline_processing.runs.completions import RunProgress
from pipeline_processing.serving.progress_events import ProgressEvents
from pipeline_processing.settings.settings import KafkaSettings
from tests.bench.board_history import fill
from tests.chromium import chromium

_BATCHES_PER_SECOND = 500
"""Of a run with 500,000 rows a second."""
_PATHS = (
    "/overview",
    "/runs",
    "/runs?state=failed",
    "/runs?label=team=billing&agency_id=7",
    "/runs?q=0099",
    "/runs/run-0000001",
    "/durations?agency_id=" + ",".join(map(str, range(1, 51))),
    "/failures?window=30d",
    "/throughput?window=7d",
)


@asynccontextmanager
async def running_board(environ: dict[str, str]) -> AsyncIterator[tuple[str, int]]:
    """Start a board. Yields its address and process id."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pipeline_processing.cli.main", "board",
        env=os.environ | environ | {"PIPELINE_BOARD__PORT": "0"},
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async for line in process.stderr:
            if match := re.search(rb"http://[\d.:]+", line):
                break
        else:
            raise RuntimeError("the board didn't start")
        yield match[0].decode(), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        print(f"exit code {await process.wait()}")


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


class Page:
    """An open page: reads the stream, and remembers when it was told about runs."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, str], float] = {}

    async def read(self, session: aiohttp.ClientSession, address: str) -> None:
        async with session.get(f"{address}/api/v1/live", timeout=aiohttp.ClientTimeout()) as answer:
            event = b""
            async for line in answer.content:
                if line.startswith(b"event: run"):
                    event = line
                elif event and line.startswith(b"data: "):
                    run = json.loads(line[6:])
                    self.told.setdefault((run["run_id"], run["state"]), time.perf_counter())
                    event = b""


async def statements(connection: Any) -> int:
    """Transactions of this database so far: the board runs each query in one of its own."""
    await connection.execute("SELECT pg_stat_force_next_flush()")
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    return int(
        await connection.fetchval(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1", "board"
        )
    )


_PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def painted(address: str, *, times: int = 5) -> str:
    """Say how soon a browser with an empty cache shows the overview: medians."""
    paints, wholes = [], []
    with chromium() as browser:
        for _ in range(times):
            page = browser.new_page()
            page.goto(address, wait_until="commit")
            page.wait_for_selector("#view[data-shown]")
            wholes.append(page.evaluate("performance.now()"))
            paints.append(page.evaluate(_PAINTED))
            page.context.close()
    return f"in a browser: first paint {median(paints):.0f} ms, all of the overview {median(wholes):.0f} ms"


async def measure(dsn: str, *, runs: int, pages: int, seconds: float) -> None:
    """Print the figures."""
    connection = await asyncpg.connect(dsn)
    beside = await asyncpg.connect(urlsplit(dsn)._replace(path="/postgres").geturl())
    await migrate(connection, "pipeline")
    await fill(connection, runs=runs)
    environ = {"PIPELINE_HISTORY__DSN": dsn, "PIPELINE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9"}
    async with running_board(environ) as (address, pid), aiohttp.ClientSession() as session:

        async def took(path: str) -> float:
            began = time.perf_counter()
            async with session.get(address + path) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()
            return time.perf_counter() - began

        print(f"{runs:,} runs")
        print(f"first: / {await took('/') * 1000:.0f} ms, overview {await took('/api/v1/overview') * 1000:.0f} ms")
        for path in _PATHS:
            print(f"  {await took('/api/v1' + path) * 1000:6.0f} ms  {path[:60]}")
        print(await asyncio.to_thread(painted, address))
        opened = [Page() for _ in range(pages)]
        reading = [asyncio.create_task(page.read(session, address)) for page in opened]
        await asyncio.sleep(3)
        before = await statements(beside)
        await asyncio.sleep(seconds)
        queries = (await statements(beside) - before) / seconds
        print(f"{pages} pages: {queries:.2f} transactions a second on the history's database")
        delays = []
        for run_id, state in (("bench-1", "queued"), ("bench-1", "running"), ("bench-1", "succeeded")):
            began = time.perf_counter()
            await connection.execute(_CHANGES[state], run_id)
            while not all((run_id, state) in page.told for page in opened):
                assert time.perf_counter() - began < 20, f"{state} was never told"
                await asyncio.sleep(0.01)
            delays.append(max(page.told[run_id, state] for page in opened) - began)
            await asyncio.sleep(0.3)
        print(f"changes reach all pages after {', '.join(f'{delay:.2f}' for delay in delays)} s")
        print(f"memory: {resident_mib(pid):.0f} MiB")
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    await connection.close()
    await beside.close()


_CHANGES = {
    "queued": "INSERT INTO pipeline.runs (run_id, job, agency_id, request, dry_run, request_hash, priority) "
    "VALUES ($1, 'agency_data_job', 7, '{\"agency_id\": 7}', false, '', 0)",
    "running": "UPDATE pipeline.runs SET state = 'running', attempt = 1, fence = 1, worker = 'w', started_at = now(), "
    "lease_expires_at = now() + interval '30 s' WHERE run_id = $1",
    "succeeded": "UPDATE pipeline.runs SET state = 'succeeded', lease_expires_at = NULL, finished_at = now(), "
    "duration_ms = 1 WHERE run_id = $1",
}


async def progress_cost(servers: EmbeddedServers, *, seconds: float) -> None:
    """
    Print the share of one core that progress events of a run take: as many calls as a fast run makes batches, and the
    messages to a real Kafka, against the same calls of nothing.
    """
    settings = KafkaSettings(bootstrap_servers=(servers.kafka.bootstrap_servers,))
    await KafkaTopics(settings=settings).ensure()

    async def cpu(tell: Callable[[RunProgress], None]) -> float:
        began, used = time.perf_counter(), time.process_time()
        while (elapsed := time.perf_counter() - began) < seconds:
            for _ in range(_BATCHES_PER_SECOND // 50):
                tell(_progress(rows=round(elapsed * 1000)))
            await asyncio.sleep(1 / 50)
        return (time.process_time() - used) / seconds

    async with KafkaEvents(settings=settings) as events:
        reporter = ProgressEvents(events=events, topic=settings.progress_topic, clock=SystemClock())
        stop = asyncio.Event()
        await events.send([])  # connects
        idle = await cpu(lambda progress: None)
        sending = asyncio.create_task(reporter.run(stop))
        reporter.tell(_progress(rows=0))
        await asyncio.sleep(1)
        busy = await cpu(reporter.tell)
        stop.set()
        await sending
    print(
        f"progress events of a run with {_BATCHES_PER_SECOND} batches a second: {(busy - idle) * 100:.2f} % of a core"
    )


def _progress(*, rows: int) -> RunProgress:
    return RunProgress(
        run_id="r",
        agency_id=7,
        attempt=1,
        state=RunState.RUNNING,
        dataset="records",
        stage="steps",
        rows_read=rows,
        rows_written=rows,
        bytes_written=rows * 100,
        at=datetime.now(UTC),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--pages", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    with embedded_servers(kafka=False) as servers:
        servers.postgres.create_database("board")
        dsn = servers.postgres.dsn("board")
        asyncio.run(measure(dsn, runs=arguments.runs, pages=arguments.pages, seconds=arguments.seconds))
        with servers.kafka:
            asyncio.run(progress_cost(servers, seconds=arguments.seconds))


if __name__ == "__main__":
    main()
