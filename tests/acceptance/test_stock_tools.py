"""Artifacts and manifests in the hands of programs that aren't ours: gzip, zstd, DuckDB, Postgres, Redshift."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import duckdb
import pytest
import zstandard
from jsonschema_rs import Draft202012Validator

from tests.acceptance.service import (
    PREFIX,
    SMALL,
    NewService,
    Service,
    body_of,
    files_in,
    published,
    published_in,
    unpacked,
)

RUN = "stock-1"
ROWS, PER_ARTIFACT = 2500, 1000
PACKED = [(form, compression) for form in ("ndjson", "csv") for compression in ("none", "gzip", "zstd")]
SUFFIXES = {"none": "", "gzip": ".gz", "zstd": ".zst"}

TABLE = f"""
CREATE TABLE samples (
    id bigint PRIMARY KEY, name text, amount numeric(14, 2), ratio double precision, flag boolean, day date,
    moment timestamptz, tags text[], document jsonb
);
INSERT INTO samples
SELECT n, (ARRAY['plain', 'a,b;c', 'say "so"', E'two\\nlines', '', 'NULL', 'ä€😀', NULL])[1 + n % 8],
       n * 12345.67 * (CASE WHEN n % 2 = 0 THEN 1 ELSE -1 END), n / 7.0, nullif(n % 3, 2) = 1,
       date '2026-01-01' + n, timestamptz '2026-01-01 00:00Z' + n * interval '1 hour 1 microsecond',
       CASE WHEN n % 5 > 0 THEN ARRAY['x', NULL, n::text] END,
       CASE WHEN n % 4 > 0 THEN jsonb_build_object('n', n, 'text', E'a\\nb', 'none', NULL) END
FROM generate_series(1, {ROWS}) AS n;
"""
COLUMNS = {
    "id": "BIGINT",
    "name": "VARCHAR",
    "amount": "DECIMAL(14, 2)",
    "ratio": "DOUBLE",
    "flag": "BOOLEAN",
    "day": "DATE",
    "moment": "TIMESTAMPTZ",
    "tags": "VARCHAR",
    "document": "VARCHAR",
}
"""As DuckDB has them."""
SUMMED = """
SELECT count(*) AS rows, sum(id) AS ids, sum(amount)::text AS amount, count(DISTINCT ratio) AS ratios,
       min(ratio) AS least, max(ratio) AS most, sum(CAST(flag AS int)) AS flags, count(flag) AS flagged,
       min(day)::text AS day, {moment} AS moment, count(name) AS names, sum(length(name)) AS letters,
       sum(CASE WHEN name = '' THEN 1 END) AS empty, sum(CASE WHEN name = 'NULL' THEN 1 END) AS no_nulls,
       count(tags) AS tags, count(document) AS documents
FROM samples
"""
"""Understood by both, but for how a time is printed."""


@dataclass(frozen=True)
class Exported:
    """A run of the table in every format, compression and dialect, and its artifacts as files."""

    service: Service
    files: dict[str, list[Path]]
    """By dataset, in the manifest's order."""


@pytest.fixture(scope="module")
def exported(new_service: NewService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """One run for all tests that only look at what it left."""
    folder = tmp_path_factory.mktemp("stock-tools")
    rotated = {
        "source": {"postgres": {"query": "SELECT * FROM samples ORDER BY id"}},
        "shared": True,
        "max_artifact_rows": PER_ARTIFACT,
    }
    datasets = [
        *({"name": f"{form}-{packed}", "format": form, "compression": packed, **rotated} for form, packed in PACKED),
        {"name": "dialect", "format": "csv", "csv": {"delimiter": ";", "header": False, "null": "NULL"}, **rotated},
        {"name": "parquet", "format": "parquet", "compression": "zstd", **rotated},
    ]
    with new_service(folder) as service:
        service.sql(TABLE)
        config = service.job_config({"job": "agency_data_job", "datasets": datasets})
        done = service.run(SMALL, "--run-id", RUN, "--config", config)
        assert done.returncode == 0, done.stderr
        key = f"{PREFIX}/agency_id={SMALL}/run_id={RUN}/_manifest.json"
        files: dict[str, list[Path]] = {}
        for entry in json.loads(service.objects(key)[key].body)["entries"]:
            path = folder / entry["dataset"] / entry["url"].rpartition("/")[2]
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(body_of(service, entry))
            files.setdefault(entry["dataset"], []).append(path)
        yield Exported(service, files)


@pytest.mark.parametrize(("form", "compression"), PACKED)
def test_duckdb_reads_every_format_and_compression(exported: Exported, form: str, compression: str) -> None:
    """Its own readers take all artifacts of a dataset at once; counts and sums are those of the table."""
    files = exported.files[f"{form}-{compression}"]
    assert [path.name for path in files] == [f"part-0000{n}.{form}{SUFFIXES[compression]}" for n in range(3)]
    # With the default dialect an empty field is null, and a quoted one the empty string.
    options = (
        "format = 'newline_delimited'"
        if form == "ndjson"
        else "header = true, auto_detect = false, delim = ',', quote = '\"', escape = '\"', nullstr = '', "
        "allow_quoted_nulls = false, new_line = '\\n'"
    )
    columns = ", ".join(f"{name}: '{type_}'" for name, type_ in COLUMNS.items())
    function = "read_json" if form == "ndjson" else "read_csv"
    arguments = f"columns = {{{columns}}}, compression = '{compression}', {options}"
    assert_read(exported, files, lambda paths: f"{function}({paths}, {arguments})")


def test_duckdb_reads_parquet(exported: Exported) -> None:
    """All artifacts at once, with the types of the table's columns."""
    files = exported.files["parquet"]
    assert [path.name for path in files] == [f"part-0000{n}.parquet" for n in range(3)]
    assert_read(exported, files, lambda paths: f"read_parquet({paths})")
    with duckdb.connect() as database:
        described = database.execute(f"DESCRIBE FROM read_parquet('{files[0]}')").fetchall()
    spelt = {"DECIMAL(14,2)": "DECIMAL(14, 2)", "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ"}
    assert {name: spelt.get(type_, type_) for name, type_, *_ in described} == COLUMNS


def assert_read(exported: Exported, files: list[Path], reader: Callable[[list[str]], str]) -> None:
    """Counts and sums are those of the table."""
    with duckdb.connect() as database:
        database.execute(f"CREATE TABLE samples AS FROM {reader([str(path) for path in files])}")
        database.execute("SET TimeZone = 'UTC'")
        moment = "strftime(max(moment) AT TIME ZONE 'UTC', '%Y-%m-%d %H:%M:%S.%f')"
        found = database.execute(SUMMED.format(moment=moment)).fetchone()
    moment = "to_char(max(moment) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"
    (expected,) = exported.service.sql(SUMMED.format(moment=moment))
    assert found == tuple(expected.values())


def test_gzip_and_zstd_accept_every_artifact(exported: Exported) -> None:
    """`-t` of both finds nothing wrong, and unpacked they are byte for byte what wasn't compressed."""
    for form, compression in PACKED[1:3] + PACKED[4:]:
        plain = [path.read_bytes() for path in exported.files[f"{form}-none"]]
        paths = exported.files[f"{form}-{compression}"]
        if compression == "zstd" and shutil.which("zstd") is None:
            # Its reference implementation, by the package `zstandard`, stands in for it.
            bodies = [path.read_bytes() for path in paths]
            assert [zstandard.ZstdDecompressor().decompressobj().decompress(body) for body in bodies] == plain
            continue
        tested = subprocess.run([compression, "-t", *paths], capture_output=True, text=True, check=False)
        assert tested.returncode == 0, tested.stderr
        unpacked_by_it = subprocess.run([compression, "-dc", *paths], capture_output=True, check=True)
        assert unpacked_by_it.stdout == b"".join(plain)


COPIED = """
SELECT (SELECT count(*) FROM (TABLE samples EXCEPT ALL TABLE copied)) AS missing,
       (SELECT count(*) FROM (TABLE copied EXCEPT ALL TABLE samples)) AS wrong, (SELECT count(*) FROM copied) AS rows
"""


@pytest.mark.parametrize(
    ("dataset", "options"),
    [
        ("csv-none", {"header": True}),
        ("csv-gzip", {"header": True}),
        ("csv-zstd", {"header": True}),
        ("dialect", {"header": False, "delimiter": ";", "null": "NULL"}),
    ],
)
def test_copy_takes_the_rows_back(exported: Exported, dataset: str, options: dict[str, Any]) -> None:
    """COPY FROM with the same options, into a table of the same shape, gives the very rows: null, empty and 'NULL'."""

    async def copied() -> tuple[Any, ...]:
        connection = await asyncpg.connect(exported.service.servers.postgres.dsn(exported.service.database))
        try:
            await connection.execute("CREATE TEMP TABLE copied (LIKE samples)")
            compression = dataset.removeprefix("csv-")
            for path in exported.files[dataset]:
                body = io.BytesIO(unpacked({"compression": compression}, path.read_bytes()))
                await connection.copy_to_table("copied", source=body, format="csv", **options)
            return tuple(await connection.fetchrow(COPIED))
        finally:
            await connection.close()

    assert asyncio.run(copied()) == (0, 0, ROWS)


# -- manifests -----------------------------------------------------------------------------------

# "Using a manifest to specify data files" in the Amazon Redshift Database Developer Guide
# (docs.aws.amazon.com/redshift/latest/dg/loading-data-files-using-manifest.html): `url` has the bucket and the full
# object path, not just a prefix; `mandatory` is optional; `meta.content_length`, needed for some formats, is the actual
# size in bytes. There may be keys that COPY doesn't need. So ours may not be those that mean something else there: of
# a manifest for SSH (load-from-host-steps-create-manifest.html), or of one by UNLOAD (r_UNLOAD.html).
REDSHIFT: dict[str, Any] = {
    "type": "object",
    "required": ["entries"],
    "properties": {
        "entries": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["url"],
                "properties": {
                    "url": {"type": "string", "pattern": "^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[^/].*[^/]$"},
                    "mandatory": {"type": "boolean"},
                    "meta": {
                        "type": "object",
                        "required": ["content_length"],
                        "properties": {"content_length": {"type": "integer", "minimum": 0}},
                        "additionalProperties": False,
                    },
                    **dict.fromkeys(("endpoint", "command", "publickey", "username"), False),
                },
            },
        },
        **dict.fromkeys(("schema", "meta", "author"), False),
    },
}


def test_a_manifest_of_one_dataset_is_one_for_redshift(service: Service) -> None:
    """It has the documented form, names each artifact and nothing else, and tells the true sizes."""
    service.sql(TABLE)
    source = {"postgres": {"query": "SELECT * FROM samples"}}
    dataset = {"name": "samples", "source": source, "shared": True, "compression": "gzip", "max_artifact_rows": 1000}
    config = service.job_config({"job": "agency_data_job", "datasets": [dataset]})

    done = service.run(SMALL, "--run-id", RUN, "--config", config)

    assert done.returncode == 0, done.stderr
    manifest = published_in(service, RUN, SMALL)
    Draft202012Validator(REDSHIFT).validate(manifest)
    folder = f"{PREFIX}/agency_id={SMALL}/run_id={RUN}/samples"
    sizes = {}
    for entry in manifest["entries"]:
        bucket, _, key = entry["url"].removeprefix("s3://").partition("/")
        sizes[key] = service.s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
        assert entry["mandatory"] is True
        assert entry["meta"]["content_length"] == sizes[key]
    assert sorted(sizes) == service.listed(folder)


def test_two_destinations_have_the_same_objects_and_one_manifest(service: Service, tmp_path: Path) -> None:
    """Artifacts are byte for byte the same in both; rejected rows and the manifest are in the first, which it names."""
    service.sql(TABLE)
    folder = tmp_path / "exports"
    folder.mkdir()
    source = {"postgres": {"query": "SELECT id, name, moment FROM samples ORDER BY id"}}
    options = {"max_artifact_rows": 1000, "steps": [{"cast": {"name": "boolean"}}], "on_row_error": "quarantine"}
    datasets = [
        {"name": "samples", "source": source, "shared": True, "compression": "zstd", "max_artifact_rows": 1000},
        {"name": "odd", "source": source, "shared": True, "format": "csv", **options},
    ]
    destinations = [{"file": {"path": str(folder)}}, {"s3": {"bucket": service.bucket, "prefix": "copies"}}]
    job = {"job": "agency_data_job", "datasets": datasets, "destinations": destinations}

    done = service.run(SMALL, "--run-id", RUN, "--config", service.job_config(job))

    assert done.returncode == 0, done.stderr
    first = files_in(folder)
    manifest = published(first, RUN, SMALL, folder.as_uri(), rejected=["odd"])
    assert [dataset["rows_written"] for dataset in manifest["datasets"]] == [ROWS, ROWS // 8]
    second = {key.removeprefix("copies/"): stored.body for key, stored in service.objects().items()}
    only_first = {key for key in first if key.endswith("_manifest.json") or "/_rejected/" in key}
    assert len(only_first) == 2
    assert second == {key: stored.body for key, stored in first.items() if key not in only_first}
