"""The servers of a benchmark, its tables, and the command line of this checkout or another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline_processing.embedded.servers import EmbeddedServers, embedded_servers
from tests.bench.cheap_sink import CheapSink, cheap_sink
from tests.bench.measuring import CpuOfTree, Figures, Finished, measured

ROOT = Path(__file__).parents[2]

WIDE = """
    CREATE TABLE {name} AS
    SELECT g::bigint AS id, 1::bigint AS agency_id, md5(g::text)::uuid AS external_id,
           'Customer number ' || g AS name, (ARRAY['active', 'closed', 'on hold'])[1 + g % 3] AS status,
           md5('a' || g) || ' ' || md5('b' || g) || ' ' || md5('d' || g) AS note, (g * 1.37)::numeric(12, 2) AS amount,
           g / 7.0::float8 AS latitude, sqrt(g::float8) AS longitude, g % 5 <> 0 AS subscribed,
           timestamptz '2026-01-01' + g * interval '1.001 second' AS created_at,
           jsonb_build_object('city', 'Łódź', 'tags', ARRAY['new', 'west'], 'visits', g % 100,
                              'address', jsonb_build_object('street', md5('c' || g), 'zip', g % 90000 + 10000)
           ) AS attributes
    FROM generate_series(1, {rows}) AS g;
    CREATE INDEX ON {name} (agency_id, id);
"""
"""Twelve columns, about 500 bytes of NDJSON a row."""
NARROW = """
    CREATE TABLE {name} AS
    SELECT g::bigint AS id, 1::bigint AS agency_id, 'name ' || g AS name,
           CASE g % 3 WHEN 0 THEN 'active' ELSE 'closed' END AS status,
           (g * 1.37)::numeric(12, 2) AS amount, timestamptz '2026-01-01' + g * interval '1 second' AS created_at
    FROM generate_series(1, {rows}) AS g;
    CREATE INDEX ON {name} (agency_id, id);
"""
"""Six columns, about 125 bytes of NDJSON a row."""
_NOT_INHERITED = ("PIPELINE_", "OTEL_", "PYTHONDONTWRITEBYTECODE")
"""Settings, and what makes every start compile all modules."""
QUERY = "SELECT * FROM {table} WHERE agency_id = {agency} ORDER BY id"


def job(table: str, **changes: object) -> str:
    """Return a job config with one dataset, as JSON, which is also YAML."""
    source = {"postgres": {"query": QUERY.format(table=table, agency="$1"), "args": ["agency_id"]}}
    return json.dumps({"job": "agency_data_job", "datasets": [{"name": "records", "source": source, **changes}]})


def traced(bench: Bench) -> dict[str, str]:
    """Return the variables that make a process export its spans, to nowhere."""
    return {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": bench.sink.url}


@dataclass(frozen=True, slots=True)
class Checkout:
    """A checkout of the project with its own .venv."""

    root: Path = ROOT

    @property
    def python(self) -> str:
        return sys.executable if self.root == ROOT else str(self.root / ".venv/bin/python")

    def command(self, *arguments: str) -> list[str]:
        """Return the words that start its command line."""
        return [self.python, "-m", "pipeline_processing.cli.main", *arguments]


@dataclass
class Bench:
    """The servers that all contestants use, and a folder for files."""

    servers: EmbeddedServers
    sink: CheapSink
    server_cpu: CpuOfTree
    later: ExitStack
    """Ends what is started later, before the servers."""
    database: str = "bench"
    _migrated: set[str] = field(default_factory=set)

    @property
    def dsn(self) -> str:
        return self.servers.postgres.dsn(self.database)

    @property
    def folder(self) -> Path:
        return self.servers.folder

    def start_kafka(self) -> None:
        """Start Kafka, unless it runs."""
        if not self.servers.kafka.has_been_up:
            self.later.enter_context(self.servers.kafka)

    def file(self, name: str, text: str) -> Path:
        """Write a file, and return its path."""
        path = self.folder / name
        path.write_text(text, "utf-8")
        return path

    def environment(self, history: str, **others: str) -> dict[str, str]:
        """Return the variables of a process of the service with its history in this database."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
        return {
            **inherited,
            **self.sink.environment,
            "PIPELINE_SOURCE__DSN": self.dsn,
            "PIPELINE_HISTORY__DSN": self.servers.postgres.dsn(history),
            "PIPELINE_DESTINATION": f"s3://{history}/exports",
            "PIPELINE_SECRETS__SALT": "a salt for masks",
            **others,
        }

    def psql(self, *commands: str) -> None:
        """Run statements."""
        subprocess.run([*self._psql, *commands], check=True, capture_output=True, text=True)

    def copied(self, command: str) -> Figures:
        """Let psql run a COPY TO STDOUT, and discard the rows."""
        return measured([*self._psql, "-c", command], server=self.server_cpu, discard=True).figures

    @property
    def _psql(self) -> list[str]:
        return [str(self.servers.postgres.bin / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.dsn]

    def load(self, name: str, definition: str, rows: int) -> None:
        """Create a table with this many rows."""
        self.psql("-c", definition.format(name=name, rows=rows))
        self.psql("-c", "VACUUM (ANALYZE, FREEZE)", "-c", "CHECKPOINT")

    def migrated(self, checkout: Checkout, database: str) -> str:
        """Return this database; create it the first time, with the checkout's history."""
        if database not in self._migrated:
            self.servers.postgres.create_database(database)
            env = self.environment(database)
            subprocess.run(checkout.command("migrate"), check=True, env=env, cwd=checkout.root, capture_output=True)
            self._migrated.add(database)
        return database

    def run(
        self,
        checkout: Checkout,
        job_file: Path,
        *options: str,
        env: Mapping[str, str] | None = None,
        under: Sequence[str] = (),
    ) -> Finished:
        """
        Make one run by the command line, `under` another command if given. Its `seconds` are those inside the process:
        from the claim of the run to its end; `whole` has its start, too.
        """
        command = [*under, *checkout.command("run", "agency_data_job", "--agency-id", "1", "--json", *options)]
        history = self.migrated(checkout, f"history-{checkout.root.name}")
        variables = self.environment(history, PIPELINE_JOB_CONFIG_FILE=str(job_file), **(env or {}))
        finished = measured(command, server=self.server_cpu, env=variables, cwd=checkout.root)
        (line,) = [line for line in finished.stdout.splitlines() if line.startswith("{")]  # profilers print, too
        completion: dict[str, Any] = json.loads(line)
        finished.figures.update(
            seconds=completion["duration_ms"] / 1000,
            whole=finished.figures["seconds"],
            rows=completion["rows_written"],
            bytes=completion["bytes_written"],
        )
        return finished


@contextmanager
def bench() -> Iterator[Bench]:
    """Start Postgres and a cheap S3 sink, with an empty database."""
    with embedded_servers(kafka=False) as servers, cheap_sink() as sink, ExitStack() as later:
        bench = Bench(servers=servers, sink=sink, server_cpu=CpuOfTree(servers.postgres.pid), later=later)
        servers.postgres.create_database(bench.database)
        yield bench
