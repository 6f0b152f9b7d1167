"""The whole service behind PgBouncer, whose few connections to Postgres are everybody's in turn."""

import pytest

from pipeline_processing.embedded.kafka import KafkaServer
from tests.acceptance.service import (
    JOB,
    LARGE,
    OTHER,
    PREFIX,
    SMALL,
    Service,
    completion,
    dataset_rows,
    message,
    one_dataset,
    published_in,
)
from tests.acceptance.shared_serve import shared_serve
from tests.pgbouncer import NewPool

STATUSES = "CREATE TABLE statuses AS SELECT code, upper(code) AS label FROM unnest(ARRAY['active', 'deleted']) AS code;"
LAKE = """
    CREATE SCHEMA lake;
    CREATE TABLE lake.records (id bigint, agency_id bigint, name text, status text, status_label text, age interval);
"""
LABELLED = one_dataset(
    "SELECT id, name, status, interval '26 hours' AS age FROM records WHERE agency_id = $1 ORDER BY id",
    steps=[
        {
            "enrich_table": {
                "query": "SELECT code, label FROM statuses WHERE code = ANY($1)",
                "on": "status",
                "key": "code",
                "add": {"status_label": "label"},
            }
        }
    ],
)


def through(service: Service, pooled: NewPool, pool_mode: str, pool_size: int) -> dict[str, str]:
    """Variables that lead the source and the history through a pool."""
    dsn = pooled(pool_mode, pool_size=pool_size).dsn(service.database)
    return {"PIPELINE_SOURCE__DSN": dsn, "PIPELINE_HISTORY__DSN": dsn}


@pytest.mark.parametrize("pool_mode", ["transaction", "session"])
def test_a_run_through_a_pool(service: Service, pooled: NewPool, pool_mode: str) -> None:
    """From an empty schema to published objects and a loaded table, with a check of the servers before."""
    service.sql(f"DROP SCHEMA pipeline CASCADE; {STATUSES} {LAKE}")
    env = through(service, pooled, pool_mode, 4)
    env["PIPELINE_SECRETS__LAKE_DSN"] = env["PIPELINE_SOURCE__DSN"]
    lake = {"postgres": {"dsn": "lake_dsn", "schema": "lake"}}
    job = {**LABELLED, "destinations": [{"s3": {"bucket": service.bucket, "prefix": PREFIX}}, lake]}
    env["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(job))

    assert service.cli("migrate", env=env).returncode == 0
    checked = service.cli("config", "check", "--connect", env=env)
    done = service.run(SMALL, "--run-id", "run-1", env=env)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert completion(done)["rows_written"] == 12
    rows = dataset_rows(service, published_in(service, "run-1", SMALL), "records")
    assert {(row["status"], row["status_label"], row["age"]) for row in rows} == {
        ("active", "ACTIVE", "26:00:00"),
        ("deleted", "DELETED", "26:00:00"),
    }
    assert service.sql("SELECT count(*) AS loaded FROM lake.records WHERE age = interval '26 hours'") == [
        {"loaded": 12}
    ]


def test_serve_through_a_pool_of_few_connections(service: Service, kafka: KafkaServer, pooled: NewPool) -> None:
    """Runs beside each other hold a connection each, and the history has the rest."""
    service.sql(f"{STATUSES} ANALYZE statuses;")
    env = {**through(service, pooled, "transaction", 4), "PIPELINE_WORKER__CONCURRENCY": "2"}
    job = {**LABELLED, "datasets": [*LABELLED["datasets"], *JOB["datasets"][1:]]}
    with shared_serve(service, kafka, job=job, env=env) as shared:
        agencies = {f"run-{number}": (SMALL, LARGE, OTHER)[number % 3] for number in range(9)}
        for run_id, agency_id in agencies.items():
            shared.messages.send({"agency_id": agency_id, "run_id": run_id})
        for run_id, agency_id in agencies.items():
            assert shared.wait_for_event(run_id).json["state"] == "succeeded"
            published_in(service, run_id, agency_id)
        shared.settle()


def test_a_parameter_that_a_pool_refuses_is_named(service: Service, pooled: NewPool) -> None:
    """With what to do, and not as a server that is away."""
    env = through(service, pooled, "transaction", 4)
    env["PIPELINE_SOURCE__DSN"] += "?statement_timeout=60000"

    checked = service.cli("config", "check", "--connect", env=env)
    done = service.run(SMALL, env=env)

    assert "unsupported startup parameter: statement_timeout" in checked.stdout + checked.stderr
    assert (checked.returncode, done.returncode) == (78, 78)
    assert "ALTER ROLE" in message(done)
