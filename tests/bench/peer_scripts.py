"""
Exports by other Python tools, run by `peers.py` with the Python of their venv: `peer_scripts.py TOOL DSN QUERY S3_URL`.

Each prints the seconds of the export without imports.
"""

import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path

BUCKET = "peers"


def duckdb(dsn: str, query: str, endpoint: str) -> float:
    """DuckDB's Postgres scanner to NDJSON on S3. It writes numeric and jsonb as they are."""
    import duckdb

    connection = duckdb.connect()
    for name in ("postgres_scanner", "httpfs"):
        spec = find_spec(f"duckdb_extension_{name}")
        assert spec is not None
        assert spec.origin is not None
        (extension,) = Path(spec.origin).parent.glob(f"extensions/*/{name}.duckdb_extension")
        connection.execute(f"LOAD '{extension}'")
    started = time.perf_counter()
    connection.execute(f"ATTACH '{dsn}' AS db (TYPE postgres, READ_ONLY)")
    connection.execute("SET preserve_insertion_order = false")
    host = endpoint.removeprefix("http://")
    connection.execute(
        f"CREATE SECRET (TYPE s3, KEY_ID 'bench', SECRET 'bench', ENDPOINT '{host}', URL_STYLE 'path', USE_SSL false)"
    )
    columns = [
        f"{name}::JSON AS {name}" if name == "attributes" else name
        for (name, *_) in connection.execute(f"DESCRIBE {query}").fetchall()
    ]
    selected = f"SELECT {', '.join(columns)} FROM ({query})"
    connection.execute(f"COPY ({selected}) TO 's3://{BUCKET}/duckdb.ndjson' (FORMAT json)")
    return time.perf_counter() - started


def dlt(dsn: str, query: str, endpoint: str) -> float:
    """dlt with its fastest reader, connectorx, to Parquet on S3, because its JSON lines take twice as long."""
    import dlt
    from dlt.destinations import filesystem
    from dlt.sources.credentials import AwsCredentials
    from dlt.sources.sql_database import sql_table

    started = time.perf_counter()
    credentials = AwsCredentials(
        aws_access_key_id="bench", aws_secret_access_key="bench", endpoint_url=endpoint, region_name="us-east-1"
    )
    table = sql_table(dsn, table="wide", backend="connectorx", reflection_level="minimal")
    pipeline = dlt.pipeline("bench", destination=filesystem(f"s3://{BUCKET}", credentials=credentials))
    pipeline.run(table, write_disposition="append", loader_file_format="parquet")
    return time.perf_counter() - started


def asyncpg(dsn: str, query: str, endpoint: str) -> float:
    """asyncpg's COPY, whose data is discarded: the least that its protocol costs."""
    import asyncio

    import asyncpg

    async def discard(data: bytes) -> None:
        pass

    async def copy() -> float:
        started = time.perf_counter()
        connection = await asyncpg.connect(dsn)
        await connection.copy_from_query(query, output=discard, format="binary")
        await connection.close()
        return time.perf_counter() - started

    return asyncio.run(copy())


if __name__ == "__main__":
    tool, *arguments = sys.argv[1:]
    print(json.dumps({"seconds": {"asyncpg": asyncpg, "duckdb": duckdb, "dlt": dlt}[tool](*arguments)}))
