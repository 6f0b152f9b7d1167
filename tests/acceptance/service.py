"""The whole service as users see it: command line, history and bucket."""

from __future__ import annotations

import asyncio
import csv
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode
from uuid import uuid4

import asyncpg
import botocore.session
import yaml
import zstandard
from botocore.config import Config
from jsonschema_rs import Draft202012Validator

from pipeline_processing.embedded.servers import EmbeddedServers
from tests.acceptance.serving import Serving
from tests.acceptance.warm import Forked
from tests.watching import eventually

HERE = Path(__file__).parent
SCHEMAS = HERE.parent.parent / "schemas"

PREFIX = "agencies"

T = TypeVar("T")

_UNFINISHED = """
SELECT run_id, state, attempt, fence, worker, lease_expires_at, not_before, queued_at, started_at, now()
FROM pipeline.runs WHERE finished_at IS NULL ORDER BY queued_at LIMIT 20
"""
_LAST_LINES = 30

Process = subprocess.Popen[str] | Forked


# -- sample data ---------------------------------------------------------------------------------

SMALL, LARGE, HUGE, OTHER = 1, 2, 4, 3
"""Agencies: with a few rows; with documents for a multipart upload of one part; of several parts; with a few rows."""
NOBODY = 999
"""An agency without rows."""

TABLES = """
CREATE TABLE records (
    id bigint PRIMARY KEY, agency_id bigint, name text, status text, amount numeric, created_at timestamptz,
    attributes jsonb
);
INSERT INTO records
SELECT agency_id * 1000 + n, agency_id, format('record %s, v1', n),
       CASE WHEN n % 5 = 0 THEN 'deleted' ELSE 'active' END,
       n * 1.10, timestamptz '2026-01-01 00:00Z' + n * interval '1 day',
       jsonb_build_object('n', n, 'tags', '["ä"]'::jsonb)
FROM unnest(ARRAY[1, 2, 3, 4]) AS agency_id, generate_series(1, 12) AS n;

CREATE TABLE documents (id bigint PRIMARY KEY, agency_id bigint, title text, width int);
INSERT INTO documents
SELECT agency_id * 100000 + n, agency_id, format('document %s, v1', n), width
FROM (VALUES (1, 3, 1), (2, 2600, 20), (3, 2, 1), (4, 4400, 160)) AS sizes (agency_id, documents, width),
     generate_series(1, documents) AS n;

CREATE TABLE payments (id bigint PRIMARY KEY, agency_id bigint, payee text, amount numeric(12, 2));
INSERT INTO payments
SELECT agency_id * 1000 + n, agency_id,
       CASE WHEN n = 2 THEN NULL WHEN n = 3 THEN '' ELSE format('payee "%s", v1', n) END, n
FROM unnest(ARRAY[1, 2, 3, 4]) AS agency_id, generate_series(1, 4) AS n;
"""

CHANGE_ROWS = """
UPDATE records SET name = replace(name, 'v1', 'v2');
UPDATE documents SET title = replace(title, 'v1', 'v2');
UPDATE payments SET payee = replace(payee, 'v1', 'v2');
INSERT INTO records SELECT agency_id * 1000 + 100, agency_id, 'added, v2', 'active', 1, now(), '{}'
FROM unnest(ARRAY[1, 2, 3, 4]) AS agency_id;
"""

JOB: dict[str, Any] = {
    "job": "agency_data_job",
    "datasets": [
        {
            "name": "records",
            "source": {
                "postgres": {
                    "query": "SELECT * FROM records WHERE agency_id = $1 ORDER BY id",
                    "args": ["agency_id"],
                }
            },
            "steps": [
                {"filter": "status != 'deleted'"},
                {"select": ["id", "name", "amount", "created_at", "attributes"]},
                {"rename": {"name": "display_name"}},
                {"add": {"exported_by": "{run_id}"}},
            ],
        },
        {
            "name": "documents",
            "source": {
                "postgres": {
                    "query": "SELECT id, title, repeat(md5(title), width) AS body FROM documents "
                    "WHERE agency_id = $1 ORDER BY id",
                    "args": ["agency_id"],
                }
            },
        },
        {
            "name": "payments",
            "source": {
                "postgres": {
                    "query": "SELECT id, payee, amount FROM payments WHERE agency_id = $1 ORDER BY id",
                    "args": ["agency_id"],
                }
            },
            "format": "csv",
        },
    ],
}


def one_dataset(query: str, *, args: tuple[str, ...] = ("agency_id",), **settings: Any) -> dict[str, Any]:
    """Return a job with one dataset, `records`, with this query; a shared one if `args` has no agency."""
    source = {"postgres": {"query": query, "args": list(args)}}
    dataset = {"name": "records", "source": source, "shared": "agency_id" not in args, **settings}
    return {"job": "agency_data_job", "datasets": [dataset]}


SLOW_QUERY = (
    "SELECT id, repeat(md5(title), 2000) AS body, CASE WHEN id % 100000 > 200 THEN pg_sleep(0.05)::text END AS pause "
    "FROM documents WHERE agency_id = $1"
)
"""For agency HUGE: the first parts are uploaded at once, and the end would follow after minutes."""


# -- the service ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a reader gets it."""

    body: bytes
    metadata: Mapping[str, str]
    etag: str = ""
    written_at: Any = None


@dataclass
class Service:
    """A database with sample data and a migrated history, a bucket, a job config, and the command line."""

    servers: EmbeddedServers
    database: str
    bucket: str
    folder: Path
    warm: bool = True
    """Whether commands are forked, which saves starting Python; see `warm.py`."""
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        own = self.servers.environment(database=self.database, bucket=self.bucket, prefix=PREFIX)
        given = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
        self.environment = {
            **given,
            **own,
            "PIPELINE_JOB_CONFIG_FILE": str(self.job_config(JOB)),
            "PYTHONPATH": str(HERE),  # for `python:` steps
        }
        self.destination = own["PIPELINE_DESTINATION"]
        self._loop = asyncio.Runner()
        self._connection: asyncpg.Connection | None = None
        self._s3: Any = None
        self._started: list[Process] = []

    def close(self) -> None:
        """End everything that was started here. Print what tells why a test failed, which pytest shows only then."""
        if self._connection is not None:
            with suppress(asyncpg.PostgresError):  # a test may have left no such table, or its transaction aborted
                print(*self.sql(_UNFINISHED), sep="\n")
            self._loop.run(self._connection.close())
        for process in self._started:
            if process.poll() is None:
                process.kill()
            _, stderr = process.communicate()
            print(process.args, process.returncode, *stderr.splitlines()[-_LAST_LINES:], sep="\n")
        self._loop.close()
        if self._s3 is not None:
            self._s3.close()

    # -- settings --------------------------------------------------------------------------------

    def job_config(self, job: Mapping[str, Any]) -> Path:
        """Write this job config to a file, and return its path."""
        path = self.folder / f"job-{uuid4().hex[:8]}.yaml"
        path.write_text(yaml.safe_dump(dict(job), sort_keys=False, allow_unicode=True))
        return path

    def to_folder(self) -> Path:
        """Write artifacts to a folder instead of the bucket. Returns the folder."""
        path = self.folder / "exports"
        path.mkdir()
        self.destination = self.environment["PIPELINE_DESTINATION"] = path.as_uri()
        return path

    # -- the command line ------------------------------------------------------------------------

    def cli(
        self, *arguments: object, env: Mapping[str, str | None] | None = None, seconds: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. Variables of `env` that are None are unset."""
        return finished(self.start(*arguments, env=env), seconds)

    def run(self, agency_id: int, *options: object, **others: Any) -> subprocess.CompletedProcess[str]:
        """`run agency_data_job --agency-id N --json …`."""
        return self.cli(*self._run(agency_id, *options), **others)

    def start(self, *arguments: object, env: Mapping[str, str | None] | None = None) -> Process:
        """Start a command."""
        return self._start(["-m", "pipeline_processing.cli.main", *map(str, arguments)], env)

    def start_run(self, agency_id: int, *options: object, env: Mapping[str, str | None] | None = None) -> Process:
        """Start a `run`."""
        return self.start(*self._run(agency_id, *options), env=env)

    def serve(
        self, *options: object, env: Mapping[str, str | None] | None = None, script: tuple[str, ...] = ()
    ) -> Serving:
        """
        Start a `serve` with a free port for health checks, optionally by a script in this folder with arguments. Always
        forked, so that its log can be read while it runs.
        """
        cli = [str(HERE / script[0]), *script[1:]] if script else ["-m", "pipeline_processing.cli.main"]
        command = [*cli, "serve", *map(str, options)]
        process = self._start(command, {"PIPELINE_HTTP__PORT": "0", **(env or {})}, warm=True)
        assert isinstance(process, Forked)
        return Serving(process)

    def trapped(
        self, trap: str, agency_id: int, *options: object, env: Mapping[str, str | None] | None = None
    ) -> Process:
        """Start a `run` that receives a signal at one place: see `trapped_cli.py`."""
        return self._start([str(HERE / "trapped_cli.py"), trap, *self._run(agency_id, *options)], env)

    def _run(self, agency_id: int, *options: object) -> list[str]:
        return ["run", "agency_data_job", "--agency-id", str(agency_id), "--json", *map(str, options)]

    def _start(self, command: list[str], env: Mapping[str, str | None] | None, *, warm: bool | None = None) -> Process:
        changed = {**self.environment, **(env or {})}
        variables = {name: value for name, value in changed.items() if value is not None}
        process: Process
        if self.warm if warm is None else warm:
            process = Forked(command, env=variables, folder=self.folder)
        else:
            process = subprocess.Popen(
                [sys.executable, *command],
                env=variables,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        self._started.append(process)
        return process

    # -- the databases ---------------------------------------------------------------------------

    def sql(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """Return the rows of a query, with json as Python values. Without arguments, allows several statements."""
        return self._loop.run(self._sql(query, *arguments))

    async def _sql(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self.servers.postgres.dsn(self.database))
            for name in ("json", "jsonb"):
                await self._connection.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        if not arguments and query.count(";") > 1:
            await self._connection.execute(query)
            return []
        return [dict(record) for record in await self._connection.fetch(query, *arguments)]

    def history(self, run_id: str) -> dict[str, Any]:
        """Return a run's row."""
        (row,) = self.sql("SELECT * FROM pipeline.runs WHERE run_id = $1", run_id)
        return row

    def state(self, run_id: str) -> str | None:
        """Return a run's state, None if there is no such run."""
        rows = self.sql("SELECT state FROM pipeline.runs WHERE run_id = $1", run_id)
        return rows[0]["state"] if rows else None

    def attempts(self, run_id: str) -> list[dict[str, Any]]:
        """Return a run's attempts, oldest first."""
        return self.sql("SELECT * FROM pipeline.run_attempts WHERE run_id = $1 ORDER BY attempt", run_id)

    def outcomes(self, run_id: str) -> list[str]:
        """Return the outcomes of a run's attempts, oldest first."""
        return [attempt["outcome"] for attempt in self.attempts(run_id)]

    def held_by(self, serve: Serving) -> list[str]:
        """Return the runs that a `serve` has in progress. A worker's name is `host:pid:word`."""
        running = "SELECT run_id FROM pipeline.runs WHERE state = 'running' AND worker LIKE $1"
        return [row["run_id"] for row in self.sql(running, f"%:{serve.pid}:%")]

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """Return a run's events in the outbox."""
        return self.sql("SELECT * FROM pipeline.outbox WHERE run_id = $1 ORDER BY id", run_id)

    def recorded_uploads(self) -> list[dict[str, Any]]:
        """Return the history's uploads that may have to be aborted."""
        return self.sql("SELECT * FROM pipeline.uploads")

    def wait_for_free(self, run_id: str) -> None:
        """Wait until the run has no lease, by the database's clock."""
        free = "SELECT FROM pipeline.runs WHERE run_id = $1 AND coalesce(lease_expires_at, '-infinity') < now()"
        eventually(lambda: self.sql(free, run_id))

    def tables(self) -> dict[str, list[str]]:
        """Return all rows and sequence values of the history's schema."""
        relations = self.sql(
            "SELECT relname AS name, relkind = 'S' AS is_sequence FROM pg_class "
            "WHERE relnamespace = to_regnamespace('pipeline') AND relkind IN ('r', 'S') ORDER BY 1"
        )
        return {
            relation["name"]: [
                row["row"]
                for row in self.sql(
                    f"SELECT {'t.last_value' if relation['is_sequence'] else 't'}::text AS row "
                    f'FROM pipeline."{relation["name"]}" t ORDER BY 1'
                )
            ]
            for relation in relations
        }

    # -- the bucket ------------------------------------------------------------------------------

    @property
    def s3(self) -> Any:
        """A client of the bucket's server, with all rights."""
        if self._s3 is None:
            server = self.servers.seaweedfs
            self._s3 = botocore.session.get_session().create_client(
                "s3",
                endpoint_url=server.endpoint_url,
                region_name=server.region,
                aws_access_key_id=server.access_key_id,
                aws_secret_access_key=server.secret_access_key,
                config=Config(s3={"addressing_style": "path"}),
            )
        return self._s3

    def listed(self, under: str = "") -> list[str]:
        """List the bucket's keys, or those under a prefix, as a reader would."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=under)
        return [each["Key"] for page in pages for each in page.get("Contents", [])]

    def objects(self, under: str = "") -> dict[str, StoredObject]:
        """Return all objects, or those under a prefix."""
        found = {}
        for key in self.listed(under):
            answer = self.s3.get_object(Bucket=self.bucket, Key=key)
            found[key] = StoredObject(
                answer["Body"].read(), answer["Metadata"], etag=answer["ETag"], written_at=answer["LastModified"]
            )
        return found

    def pending_uploads(self) -> list[tuple[str, str]]:
        """Return uploads that are neither completed nor aborted, as key and upload id."""
        answer = self.s3.list_multipart_uploads(Bucket=self.bucket)
        return [(each["Key"], each["UploadId"]) for each in answer.get("Uploads", [])]

    def everything(self) -> tuple[object, ...]:
        """Return everything that a run could change, for comparison."""
        return self.tables(), self.objects(), self.pending_uploads()


NewService = Callable[..., AbstractContextManager[Service]]
"""Opens a service, with its files in a folder; for `warm` see `Service`."""


def finished(process: Process, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Wait until a started command has ended, and return its result."""
    stdout, stderr = process.communicate(timeout=seconds)
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def is_stopped(process: Process) -> bool:
    """Whether a SIGSTOP has stopped the process."""
    assert process.poll() is None, process.communicate()
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


# -- output of commands --------------------------------------------------------------------------


def completion(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the completion on stdout, which must be one line of valid JSON and nothing else."""
    assert done.stdout.count("\n") == 1, (done.returncode, done.stdout, done.stderr)
    value: dict[str, Any] = json.loads(done.stdout)
    valid("run-completion", value)
    return value


def log_lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Return the JSON lines on stderr."""
    return [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]


def message(done: subprocess.CompletedProcess[str]) -> str:
    """Return the error message, the only one on stderr. There is never a traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    said = re.findall(r"^Error: .*(?:\n(?!\{).*)*", done.stderr, re.MULTILINE)
    assert len(said) == 1, (done.returncode, done.stderr)
    return str(said[0])


def valid(schema: str, value: object) -> None:
    """Validate a value against a published schema."""
    document = json.loads((SCHEMAS / f"{schema}.schema.json").read_text())
    Draft202012Validator(document, validate_formats=True).validate(value)


# -- what a reader sees --------------------------------------------------------------------------


def published(
    objects: Mapping[str, StoredObject],
    run_id: str,
    agency_id: int,
    destination: str,
    *,
    rejected: Collection[str] = (),
) -> dict[str, Any]:
    """
    Return the manifest of a run, after checking it and all objects beside it against the contract.

    `objects` have keys below `destination`; `rejected` are the datasets with quarantined rows.
    """
    folder = f"agency_id={agency_id}/run_id={run_id}"
    stored = {key: object_ for key, object_ in objects.items() if key.startswith(f"{folder}/")}
    manifest: dict[str, Any] = json.loads(stored[f"{folder}/_manifest.json"].body)
    valid("manifest", manifest)
    assert (manifest["run_id"], manifest["agency_id"], manifest["job"]) == (run_id, agency_id, "agency_data_job")

    entries = {entry["url"].removeprefix(f"{destination}/"): entry for entry in manifest["entries"]}
    apart = {entry["url"].removeprefix(f"{destination}/"): entry for entry in manifest["rejected"]}
    named = {*entries, *apart, f"{folder}/_manifest.json"}
    assert named == set(stored), "a reader sees exactly the objects in the manifest"
    parts = Counter[str]()
    for key, entry in entries.items():
        suffix = {"none": "", "gzip": ".gz", "zstd": ".zst"}[entry["compression"]]
        number = parts[entry["dataset"]]
        assert key == f"{folder}/{entry['dataset']}/part-{number:05}.{entry['format']}{suffix}"
        assert entry["mandatory"] is True
        parts[entry["dataset"]] += 1
    assert set(apart) == {f"{folder}/_rejected/{dataset}/part-00000.ndjson" for dataset in rejected}
    for key, entry in [*entries.items(), *apart.items()]:
        body = stored[key].body
        assert entry["meta"] == {"content_length": len(body)}
        assert entry["sha256"] == hashlib.sha256(body).hexdigest()
        assert entry["rows"] == len(rows_of(entry, body))
    for dataset in manifest["datasets"]:
        assert dataset["rows_written"] == sum(e["rows"] for e in entries.values() if e["dataset"] == dataset["name"])
    for entry in apart.values():
        (dataset,) = [each for each in manifest["datasets"] if each["name"] == entry["dataset"]]
        assert dataset["rows_rejected"] == entry["rows"]
    for counts in (manifest, *manifest["datasets"]):
        assert counts["rows_read"] == counts["rows_written"] + counts["rows_filtered"] + counts["rows_rejected"]
    for count in ("rows_read", "rows_written", "rows_filtered", "rows_rejected"):
        assert manifest[count] == sum(dataset[count] for dataset in manifest["datasets"])
    return manifest


def published_in(
    service: Service, run_id: str, agency_id: int, *, prefix: str = PREFIX, rejected: Collection[str] = ()
) -> dict[str, Any]:
    """Like `published`, for a service's bucket below a prefix, where objects also have metadata."""
    folder = f"agency_id={agency_id}/run_id={run_id}/"
    objects = {key.removeprefix(f"{prefix}/"): value for key, value in service.objects(f"{prefix}/{folder}").items()}
    manifest = published(objects, run_id, agency_id, f"s3://{service.bucket}/{prefix}", rejected=rejected)
    for stored in objects.values():
        assert stored.metadata == {
            "run-id": run_id,
            "agency-id": str(agency_id),
            "attempt": str(manifest["attempt"]),
            "trace-id": manifest["trace_id"],
            **({"requested-by": quote(manifest["requested_by"], safe="")} if manifest["requested_by"] else {}),
            **({"labels": urlencode(manifest["labels"], quote_via=quote)} if manifest["labels"] else {}),
        }
    return manifest


def rows_of(entry: Mapping[str, Any], body: bytes) -> list[dict[str, Any]]:
    """Return an artifact's rows. Those of quarantines are plain NDJSON, without a format in the entry."""
    text = unpacked(entry, body).decode()
    if entry.get("format") == "csv":
        return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def unpacked(entry: Mapping[str, Any], body: bytes) -> bytes:
    """Return the decompressed content."""
    match entry.get("compression"):
        case "gzip":
            return gzip.decompress(body)
        case "zstd":
            return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    return body


def body_of(service: Service, entry: Mapping[str, Any]) -> bytes:
    """Return the content of an entry's object."""
    key = entry["url"].removeprefix(f"s3://{service.bucket}/")
    body: bytes = service.s3.get_object(Bucket=service.bucket, Key=key)["Body"].read()
    return body


def dataset_rows(service: Service, manifest: Mapping[str, Any], dataset: str) -> list[dict[str, Any]]:
    """Return the published rows of one dataset, from all of its artifacts."""
    entries = [entry for entry in manifest["entries"] if entry["dataset"] == dataset]
    assert entries
    return [row for entry in entries for row in rows_of(entry, body_of(service, entry))]


def files_in(folder: Path) -> dict[str, StoredObject]:
    """Return the files that a reader sees in a folder, without hidden ones."""
    return {key: StoredObject(path.read_bytes(), {}) for key, path in _files(folder) if not key.startswith(".")}


def staged_in(folder: Path) -> list[str]:
    """Return the staged files of a folder, which are hidden from readers."""
    return [key for key, _ in _files(folder) if key.startswith(".staging/")]


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    return ((path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file())


def changed(job: Mapping[str, Any], **datasets: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job config with some keys of some datasets replaced."""
    copy = deepcopy(dict(job))
    for dataset in copy["datasets"]:
        dataset.update(datasets.get(dataset["name"], {}))
    return copy
