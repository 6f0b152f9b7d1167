"""
Measures the speed and memory of one large run, relative to a COPY by one Postgres backend.

Wall times are taken in turns in one session, and reported as ratios of medians, so that noise affects all alike.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from pipeline_processing.embedded.servers import EmbeddedServers, embedded_servers

QUERY = "SELECT * FROM agency_records WHERE agency_id = {} ORDER BY id"
TABLE = """
    CREATE TABLE agency_records AS
    SELECT g::bigint AS id, 1::bigint AS agency_id, 'name ' || g AS name,
           CASE g % 3 WHEN 0 THEN 'active' ELSE 'closed' END AS status,
           (g * 1.37)::numeric(12, 2) AS amount, timestamptz '2026-01-01' + g * interval '1 second' AS created_at
    FROM generate_series(1, {rows}) AS g;
    CREATE INDEX ON agency_records (agency_id, id);
    ANALYZE agency_records;
"""


def config(**changes: object) -> str:
    """Return a job config with one dataset, as JSON, which is also YAML."""
    source = {"postgres": {"query": QUERY.format("$1"), "args": ["agency_id"]}}
    return json.dumps({"datasets": [{"name": "records", "source": source, **changes}]})


def psql(servers: EmbeddedServers, dsn: str, command: str) -> float:
    """Return the seconds that psql takes, discarding its output."""
    started = time.perf_counter()
    subprocess.run(
        [str(servers.postgres.bin / "psql"), "-X", "-q", "-d", dsn, "-c", command],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def null_run(dsn: str, job: str) -> dict[str, float]:
    """Make one run into the null destination."""
    command = [sys.executable, "-m", "tests.bench.null_run", dsn, job]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def compare(servers: EmbeddedServers, dsn: str, rounds: int, only: str | None) -> None:
    """Measure null runs and COPY in turns."""
    copy = f"COPY ({QUERY.format(1)}) TO STDOUT (FORMAT binary)"
    contestants: dict[str, Callable[[], float]] = {"COPY binary > /dev/null": lambda: psql(servers, dsn, copy)}
    peaks: dict[str, float] = {}
    hook = "tests.bench.hooks:change_two_columns"
    declared = {"function": hook, "reads": ["name", "status"]}
    for name, job in {
        "ndjson": config(),
        "ndjson, select and add": config(
            steps=[{"select": ["id", "name", "amount", "created_at"]}, {"add": {"run": "{run_id}"}}]
        ),
        "ndjson, filter": config(steps=[{"filter": "status <> 'none'"}]),
        "ndjson, python hook": config(steps=[{"python": hook}]),
        "ndjson, declared hook": config(steps=[{"python": declared}]),
        "ndjson, zstd": config(compression="zstd"),
        "csv": config(format="csv"),
    }.items():
        if only not in (None, name):
            continue

        def contestant(name: str = name, job: str = job) -> float:
            result = null_run(dsn, job)
            peaks[name] = max(peaks.get(name, 0), result["peak_mib"])
            return result["seconds"]

        contestants[name] = contestant
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, measure in contestants.items():
            seconds[name].append(measure())
            print(f"{name}: {seconds[name][-1]:.2f} s", flush=True)
    reference = median(seconds["COPY binary > /dev/null"])
    print(f"\n{'path':<26}{'median s':>10}{'min s':>9}{'x COPY':>9}{'peak MiB':>10}")
    for name, times in seconds.items():
        peak = f"{peaks[name]:.0f}" if name in peaks else "-"
        print(f"{name:<26}{median(times):>10.2f}{min(times):>9.2f}{median(times) / reference:>9.2f}{peak:>10}")


def watch_memory(servers: EmbeddedServers, environment: dict[str, str], job_file: Path) -> None:
    """Make one real run to S3, and sample its memory."""
    settings = {**environment, "PIPELINE_JOB_CONFIG_FILE": str(job_file)}
    cli = [sys.executable, "-m", "pipeline_processing.cli.main"]
    subprocess.run([*cli, "migrate"], check=True, env={**os.environ, **settings}, stdout=subprocess.DEVNULL)
    started = time.perf_counter()
    run = subprocess.Popen(
        [*cli, "run", "agency_data_job", "--agency-id", "1", "--json"],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    samples = []
    status = Path(f"/proc/{run.pid}/status")
    while run.poll() is None:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmRSS" in lines:
            samples.append(int(lines["VmRSS"].split()[0]) // 1024)
        time.sleep(0.2)  # a sample five times a second; there is no event to wait for
    assert run.stdout is not None
    completion = json.loads(run.stdout.read())
    quarter = len(samples) // 4
    print(
        f"\nto S3: {completion['rows_written']:,} rows, {completion['bytes_written'] / 1e6:,.0f} MB in "
        f"{time.perf_counter() - started:.1f} s; resident MiB: peak {max(samples)}, "
        f"by quarters {[max(samples[i * quarter : (i + 1) * quarter]) for i in range(4)]}"
    )


def main() -> None:
    """Load, compare, watch."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="one of the paths of the table, such as ndjson")
    options = parser.parse_args()
    with embedded_servers(kafka=False) as servers, tempfile.TemporaryDirectory() as folder:
        servers.postgres.create_database("bench")
        servers.seaweedfs.create_bucket("bench")
        dsn = servers.postgres.dsn("bench")
        print(f"loading {options.rows:,} rows", flush=True)
        psql(servers, dsn, TABLE.format(rows=options.rows))
        job_file = Path(folder) / "job.yaml"
        job_file.write_text(config(), "utf-8")
        compare(servers, dsn, options.rounds, options.only)
        watch_memory(servers, servers.environment(database="bench", bucket="bench"), job_file)


if __name__ == "__main__":
    main()
