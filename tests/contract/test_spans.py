"""What the database and S3 clients tell a tracing backend, on real servers."""

import uuid

import asyncpg
from aiobotocore.session import get_session
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.tracing import telemetry_with, trace_ids


async def test_queries_and_s3_calls_are_spans_without_their_values(servers: EmbeddedServers) -> None:
    """They stand below the span in which they happen, and no argument or content is in them."""
    s3 = servers.seaweedfs
    exporter = InMemorySpanExporter()
    telemetry = telemetry_with([exporter], {}, mask=Mask())
    client = get_session().create_client(
        "s3",
        endpoint_url=s3.endpoint_url,
        region_name=s3.region,
        aws_access_key_id=s3.access_key_id,
        aws_secret_access_key=s3.secret_access_key,
    )

    with telemetry.tracer.start_as_current_span("run") as run:
        connection = await asyncpg.connect(servers.postgres.dsn("postgres"))
        try:
            await connection.fetchval("SELECT $1::text", "tops3cret")
            async with connection.transaction():
                async for _ in connection.cursor("SELECT length($1::text)", "tops3cret"):
                    pass
        finally:
            await connection.close()
        bucket = f"spans-{uuid.uuid4().hex[:8]}"
        async with client as calls:
            await calls.create_bucket(Bucket=bucket)
            await calls.put_object(Bucket=bucket, Key="key", Body=b"tops3cret")
    telemetry.shutdown()

    spans = exporter.get_finished_spans()
    names = [span.name for span in spans]
    assert {"SELECT", "CURSOR: SELECT", "S3.CreateBucket", "S3.PutObject", "run"} <= set(names)
    assert {span.context.trace_id for span in spans if span.context} == {int(trace_ids(run)[0], 16)}
    told = str([(span.name, dict(span.attributes or {})) for span in spans])
    assert "SELECT $1::text" in told
    for secret in ("tops3cret", s3.secret_access_key):
        assert secret not in told
