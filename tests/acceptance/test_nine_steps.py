"""
One job of nine steps, two lookups among them, over many rows with every kind of fault: each row is told of, exactly.

`ROWS=1000000 .venv/bin/python -m pytest -s tests/acceptance/test_nine_steps.py` does it with more.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.acceptance import orders
from tests.acceptance.running_api import running_api
from tests.acceptance.service import HERE, PREFIX, NewService, Service, completion, valid
from tests.upstream_api import Asked, Reply, share_of

ROWS = int(os.environ.get("ROWS", "60000"))
RUN = "nine-steps-1"
BUDGET_MIB = 64
FOLDER = f"{PREFIX}/agency_id={orders.AGENCY}/run_id={RUN}"


@dataclass(frozen=True)
class Exported:
    """The finished run."""

    service: Service
    done: subprocess.CompletedProcess[str]
    manifest: dict[str, Any]
    asked: list[Asked]
    faults: Counter[str]
    """How often the API failed, and how."""


@pytest.fixture(scope="module")
def exported(new_service: NewService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """The run, in a process of its own whose memory is measured, with an API that fails for one request in twenty."""
    with new_service(tmp_path_factory.mktemp("nine-steps"), warm=False) as service, running_api() as api:
        orders.load(service, ROWS)
        faults = Counter[str]()
        replies = [("later", {"Retry-After": "1"}), ("soon", {"Retry-After": "0"}), ("whenever", {}), ("whenever", {})]
        unlucky = share_of(0.05, Reply(status=503), seed=7)

        def failing(asked: Asked) -> Reply | None:
            if unlucky(asked) is None:
                return None
            kind, headers = replies[faults.total() % len(replies)]
            faults[kind] += 1
            return Reply(status=503, headers=headers)

        api.on("/customers", orders.customers)
        api.faults.append(failing)
        config = service.job_config(orders.job(api.url("/customers?ids={values}")))
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, HERE / "measured_cli.py", *_run(config)],
            env={
                **service.environment,
                "PIPELINE_SECRETS__ORDERS_SALT": orders.SALT,
                "PIPELINE_WORKER__MEMORY_BUDGET_MIB": str(BUDGET_MIB),
            },
            cwd=service.folder,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - started
        print(f"{ROWS:,} rows in {seconds:.1f} s ({ROWS / seconds:,.0f}/s), {peak_mib(done):.0f} MiB, {dict(faults)}")
        assert done.returncode == 0, done.stderr
        manifest = json.loads(_body(service, f"{FOLDER}/_manifest.json").read())
        yield Exported(service, done, manifest, api.asked, faults)


def _run(config: Path) -> list[str]:
    return [
        "run",
        "agency_data_job",
        "--agency-id",
        str(orders.AGENCY),
        "--run-id",
        RUN,
        "--json",
        "--config",
        str(config),
    ]


def peak_mib(done: subprocess.CompletedProcess[str]) -> float:
    """What `measured_cli.py` told."""
    (kib,) = re.findall(r"^VmHWM: (\d+) kB$", done.stderr, re.MULTILINE)
    return int(kib) / 1024


def _body(service: Service, key: str) -> Any:
    return service.s3.get_object(Bucket=service.bucket, Key=key)["Body"]


def test_every_row_is_accounted_for(exported: Exported) -> None:
    """Read = written + filtered + rejected, each of them as Postgres alone judges the rows; by all nine steps."""
    stops = {
        row["stop"]: row["rows"]
        for row in exported.service.sql("SELECT stop, count(*) AS rows FROM judged GROUP BY stop")
    }
    rejected = sum(stops[stop] for stop in orders.FAULTS)
    filtered = sum(stops[stop] for stop in orders.FILTERED)

    assert min(stops.values()) > 0, "every way to stop is taken"
    assert set(stops) == {None, *orders.FAULTS, *orders.FILTERED}
    counts = {"rows_read": ROWS, "rows_written": stops[None], "rows_filtered": filtered, "rows_rejected": rejected}
    assert counts["rows_read"] == stops[None] + filtered + rejected
    assert exported.manifest["datasets"] == [{"name": "records", **counts, "schema": None}]
    for told in (exported.manifest, completion(exported.done), exported.service.history(RUN)):
        assert {name: told[name] for name in counts} == counts


def test_every_written_row_is_exact(exported: Exported) -> None:
    """Each line of the artifact is what Postgres computes of that row by all nine steps, to the last digit."""
    (entry,) = exported.manifest["entries"]
    holds_exactly(exported.service, entry, orders.WRITTEN)


def test_every_rejected_row_is_told_of(exported: Exported) -> None:
    """Number, step and reason of each, and the row as it was read, masked columns and their origins masked."""
    (entry,) = exported.manifest["rejected"]
    holds_exactly(exported.service, entry, orders.REJECTED, by="row_number")


def holds_exactly(service: Service, entry: dict[str, Any], query: str, *, by: str | None = None) -> None:
    """
    An artifact has the lines of a query, and the size and checksum that the manifest says.

    `by`: a number that both are sorted by, if the artifact needn't be.
    """
    expected = service.folder / "expected.ndjson"
    with expected.open("wb") as file:
        asyncio.run(_copy(service, query, file))
    lines, size, digest = 0, 0, hashlib.sha256()
    key = entry["url"].removeprefix(f"s3://{service.bucket}/")
    found: Iterable[bytes] = _body(service, key).iter_lines(keepends=True)
    if by is not None:
        found = list(found)
        digest.update(b"".join(found))
        found = sorted(found, key=lambda line: int(parsed(line)[by]))
    with expected.open("rb") as file:
        for line in found:
            lines, size = lines + 1, size + len(line)
            if by is None:
                digest.update(line)
            wanted = file.readline()
            assert line == wanted or parsed(line) == parsed(wanted), f"line {lines}"
        assert file.readline() == b"", "no line is missing"
    assert entry["rows"] == lines
    assert entry["meta"] == {"content_length": size}
    assert entry["sha256"] == digest.hexdigest()


async def _copy(service: Service, query: str, file: Any) -> None:
    connection = await asyncpg.connect(service.servers.postgres.dsn(service.database))
    try:
        await connection.execute("SET TimeZone = 'UTC'")
        # In this dialect every value stands as it is: no JSON has these characters.
        await connection.copy_from_query(query, output=file, format="csv", quote="\x01", delimiter="\x02")
    finally:
        await connection.close()


def parsed(line: bytes) -> Any:
    """Numbers as they are written."""
    return json.loads(line, parse_float=str, parse_int=str)


def test_manifest_history_and_event_agree(exported: Exported) -> None:
    """One attempt; the event is what was printed; bytes are those of both artifacts, which are all that is there."""
    service, manifest, told = exported.service, exported.manifest, completion(exported.done)
    valid("manifest", manifest)
    run = service.history(RUN)
    (event,) = service.events(RUN)
    assert event["value"].decode() + "\n" == exported.done.stdout
    assert (run["state"], run["attempt"], told["attempt"], manifest["attempt"]) == ("succeeded", 1, 1, 1)
    assert run["manifest_url"] == told["manifest"] == f"s3://{service.bucket}/{FOLDER}/_manifest.json"
    assert run["trace_id"] == told["trace_id"] == manifest["trace_id"]
    entries = manifest["entries"] + manifest["rejected"]
    assert run["bytes_written"] == told["bytes_written"] == sum(each["meta"]["content_length"] for each in entries)
    assert service.listed(FOLDER) == [
        f"{FOLDER}/_manifest.json",
        f"{FOLDER}/_rejected/records/part-00000.ndjson",
        f"{FOLDER}/records/part-00000.ndjson",
    ]
    assert (service.pending_uploads(), service.recorded_uploads()) == ([], [])


def test_the_api_failed_and_was_asked_again(exported: Exported) -> None:
    """Faults came in every kind, and few requests were needed for many rows: each asks for many keys."""
    assert set(exported.faults) == {"later", "soon", "whenever"}
    requests = len(exported.asked)
    assert requests - exported.faults.total() <= ROWS / 100, "at most 10 a batch of 1,000 rows"


def test_the_process_stays_small(exported: Exported) -> None:
    """At most the memory budget and 150 MiB, whatever the number of rows."""
    assert peak_mib(exported.done) < BUDGET_MIB + 150
