"""
The same export by other tools, at their best settings, to the same S3 sink.

They come from pip, in the versions of `peers.txt`, and are installed into a venv of their own the first time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from tests.bench.measuring import Contestant, Figures, Skipped, measured
from tests.bench.peer_scripts import BUCKET
from tests.bench.setting import QUERY, ROOT, Bench

VERSIONS = Path(__file__).with_name("peers.txt")
VENV = ROOT / "build/bench-peers"

_TABLE = "wide"
_UNORDERED = f"SELECT * FROM db.{_TABLE} WHERE agency_id = 1"
"""DuckDB reads a table in parallel only without an order."""
_AWS = """
[default]
region = us-east-1
s3 =
  multipart_threshold = 16MB
  multipart_chunksize = 16MB
  max_concurrent_requests = 4
  payload_signing_enabled = false
  addressing_style = path
"""


def installed() -> str | None:
    """Install the peers unless they are. Returns why that can't be done, else None."""
    stamp = VENV / "peers.txt"
    if stamp.is_file() and stamp.read_text() == VERSIONS.read_text():
        return None
    print("installing the peers (once; some minutes)", flush=True)
    venv.create(VENV, with_pip=True, clear=True)
    pip = [str(VENV / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "-r", str(VERSIONS)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"The peers can't be installed: {done.stderr.strip().splitlines()[-1]}"
    stamp.write_text(VERSIONS.read_text())
    return None


def peers(bench: Bench) -> Iterator[Contestant]:
    """All peers, exporting the wide table."""
    for key, label, command in (
        ("asyncpg", "asyncpg COPY BINARY, discarded", _script(bench, "asyncpg", _query())),
        ("psql-text-aws", "psql COPY TEXT | aws s3 cp", _psql_to_aws(bench, f"COPY ({_query()}) TO STDOUT")),
        (
            "psql-json-aws", "psql row_to_json | aws s3 cp",
            _psql_to_aws(bench, f"COPY (SELECT row_to_json(r) FROM ({_query()}) r) TO STDOUT"),
        ),
        ("duckdb", "DuckDB's scanner", _script(bench, "duckdb", _UNORDERED)),
        ("sling", "sling, JSON lines", _sling(bench)),
        ("dlt", "dlt with connectorx, Parquet", _script(bench, "dlt", "")),
    ):  # fmt: skip
        yield Contestant(key, label, partial(_measure, bench, command))


def _query() -> str:
    return QUERY.format(table=_TABLE, agency=1)


def _measure(bench: Bench, commands: list[list[str]]) -> Figures:
    if why := installed():
        raise Skipped(why)
    finished = measured(*commands, server=bench.server_cpu, env=_environment(bench), cwd=bench.folder)
    figures = {**finished.figures, "whole": finished.figures["seconds"]}
    if commands[-1][0].endswith("python"):
        figures.update(json.loads(finished.stdout.splitlines()[-1]))
    return figures


def _psql_to_aws(bench: Bench, copy: str) -> list[list[str]]:
    psql = [str(bench.servers.postgres.bin / "psql"), "-X", "-q", "-d", bench.dsn, "-c", copy]
    aws = [str(VENV / "bin/aws"), "--endpoint-url", bench.sink.url, "s3", "cp", "--quiet"]
    return [psql, [*aws, "--expected-size", "300000000", "-", f"s3://{BUCKET}/psql.ndjson"]]


def _script(bench: Bench, tool: str, query: str) -> list[list[str]]:
    script = Path(__file__).with_name("peer_scripts.py")
    return [[str(VENV / "bin/python"), "-P", str(script), tool, bench.dsn, query, bench.sink.url]]


def _sling(bench: Bench) -> list[list[str]]:
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    binary = VENV / "lib" / python / "site-packages/sling_linux_amd64/bin/sling-linux-amd64"
    return [
        [
            str(binary), "run", "--src-conn", "POSTGRES", "--src-stream", _query(),
            "--tgt-conn", "SINK", "--tgt-object", f"s3://{BUCKET}/sling.jsonl", "--tgt-options", "{format: jsonlines}",
        ]
    ]  # fmt: skip


def _environment(bench: Bench) -> Mapping[str, str]:
    sink = {
        "type": "s3", "bucket": BUCKET, "access_key_id": "bench", "secret_access_key": "bench", "region": "us-east-1",
        "endpoint": bench.sink.url,
    }  # fmt: skip
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(bench.folder),
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(bench.file("aws", _AWS)),
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "POSTGRES": f"{bench.dsn}?sslmode=disable",
        "SINK": json.dumps(sink),
        "SLING_DISABLE_TELEMETRY": "true",
        "RUNTIME__DLTHUB_TELEMETRY": "false",
    }
