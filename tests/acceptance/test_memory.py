"""A process stays within its memory budget and 150 MiB, however rows grow: at the source, in steps, in one value."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.service import HERE, NewService, Service, completion, one_dataset

BUDGET_MIB = 64
LIMIT_MIB = BUDGET_MIB + 150


@pytest.fixture(scope="module")
def service(new_service: NewService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with new_service(tmp_path_factory.mktemp("memory"), warm=False) as opened:
        yield opened


def run(service: Service, job: dict[str, Any]) -> tuple[subprocess.CompletedProcess[str], float]:
    """One run in a process of its own, and the most MiB that it had."""
    command = ["run", "agency_data_job", "--agency-id", "1", "--json", "--config", str(service.job_config(job))]
    done = subprocess.run(
        [sys.executable, HERE / "measured_cli.py", *command],
        env={
            **service.environment,
            "PIPELINE_WORKER__MEMORY_BUDGET_MIB": str(BUDGET_MIB),
            "PIPELINE_WORKER__CONCURRENCY": "1",
        },
        cwd=service.folder,
        capture_output=True,
        text=True,
    )
    (kib,) = re.findall(r"^VmHWM: (\d+) kB$", done.stderr, re.MULTILINE)
    print(f"{int(kib) / 1024:.0f} MiB")
    return done, int(kib) / 1024


def rows_that_grow(count: int, *, to: int, after: int = 5000) -> str:
    """Rows of one byte, and then so many of `to` bytes."""
    size = f"CASE WHEN g <= {after} THEN 1 ELSE {to} END"
    return (
        f"SELECT $1::bigint AS agency_id, g AS id, repeat(chr(97 + g % 26), {size}) AS t "
        f"FROM generate_series(1, {after + count}) g"
    )


DOCUMENTS = """
SELECT $1::bigint AS agency_id, g AS id, (SELECT jsonb_agg(jsonb_build_object('n', i, 'text', repeat('y', 50)))
    FROM generate_series(1, 65000) i) AS document FROM generate_series(1, 5) g
"""
"""Of 5 MB each."""


@pytest.mark.parametrize(
    ("job", "rows"),
    [
        pytest.param(one_dataset(rows_that_grow(700, to=300_000)), 5700, id="rows grow to 300 kB"),
        pytest.param(one_dataset(rows_that_grow(15, to=7_000_000), format="csv"), 5015, id="rows grow to 7 MB"),
        pytest.param(
            one_dataset(rows_that_grow(30, to=2_000_000), format="parquet"),
            5030,
            id="rows of Parquet grow to 2 MB",
            marks=pytest.mark.long,
        ),
        pytest.param(
            one_dataset(
                rows_that_grow(1000, to=10_000),
                steps=[{"derive": {"wide": " || ".join(["t"] * 60)}}, {"drop": ["wide"]}],
            ),
            6000,
            id="a derive widens rows that grow",
        ),
        pytest.param(
            one_dataset(
                rows_that_grow(0, to=1, after=1500), steps=[{"python": "memory_steps:widen"}, {"drop": ["wide"]}]
            ),
            1500,
            id="a step widens rows, and the next drops that",
        ),
        pytest.param(
            one_dataset(rows_that_grow(0, to=1, after=4000), steps=[{"python": "memory_steps:widen_late"}]),
            4000,
            id="a step suddenly widens rows",
        ),
        pytest.param(
            one_dataset(DOCUMENTS, steps=[{"python": "memory_steps:touch"}]), 5, id="documents of 5 MB in a step"
        ),
    ],
)
def test_a_run_stays_small(service: Service, job: dict[str, Any], rows: int) -> None:
    """It succeeds, with all rows, into a bucket, where parts take memory, too."""
    done, peak = run(service, job)

    assert done.returncode == 0, done.stderr
    assert completion(done)["rows_written"] == rows
    assert peak < LIMIT_MIB


def test_a_row_that_can_not_fit_is_refused_before_it_is_read(service: Service) -> None:
    """One row of 100 MB costs no more than any other: Postgres tells its size first."""
    done, peak = run(service, one_dataset(rows_that_grow(1, to=100_000_000)))

    assert (done.returncode, completion(done)["error"]["kind"]) == (1, "row_too_large")
    assert "Dataset 'records', after row 5,000" in completion(done)["error"]["message"]
    assert peak < LIMIT_MIB - BUDGET_MIB
