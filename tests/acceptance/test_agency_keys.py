"""Agencies whose keys are UUIDs or texts, from the request in Kafka to the completion event."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline_processing.agency_keys import number_of
from tests.acceptance.kafka_side import Messages
from tests.acceptance.service import PREFIX, Service, one_dataset, valid

UUIDS = ("018f4e8a-5b7c-7d3e-9a41-2f60c1d7b3e5", "018f4e8a-5b7c-7d3e-9a41-2f60c1d7b3e6")
TEXTS = ("acme/eu's", "acme%2Feu's")
"""Each is the other's path if one forgets to encode."""
FOLDERS = {
    **{key: f"{PREFIX}/agency_id={key}" for key in UUIDS},
    TEXTS[0]: f"{PREFIX}/agency_id=acme%2Feu%27s",
    TEXTS[1]: f"{PREFIX}/agency_id=acme%252Feu%27s",
}


def job(service: Service, kind: str) -> dict[str, Any]:
    """A job that exports each tenant's records to the bucket and into a table."""
    service.environment["PIPELINE_SECRETS__WAREHOUSE_DSN"] = service.environment["PIPELINE_SOURCE__DSN"]
    config = one_dataset(
        "SELECT id, name FROM tenants WHERE tenant = $1 ORDER BY id", steps=[{"add": {"of": "{agency_id}"}}]
    )
    tables = {"schema": "lake", "agency_column": "tenant", "dsn": "warehouse_dsn"}
    config["destinations"] = [
        {"s3": {"bucket": service.bucket, "prefix": PREFIX, "tags": {"tenant": "{agency_id}"}}},
        {"postgres": tables},
    ]
    return {"agency_key": kind, **config}


@pytest.mark.parametrize(("kind", "keys", "other"), [("uuid", UUIDS, UUIDS[0].upper()), ("text", TEXTS, 7)])
def test_a_run_of_each_agency(
    service: Service, messages: Messages, kind: str, keys: tuple[str, str], other: int | str
) -> None:
    """Its key is in messages, objects, tables and history, and no agency gets another's rows or path."""
    service.sql(
        f"CREATE SCHEMA lake; CREATE TABLE tenants (id int, tenant {kind}, name text);"
        f"CREATE TABLE lake.records (id int, tenant {kind}, name text, of text);"
    )
    for number, key in enumerate(keys):
        service.sql(f"INSERT INTO tenants VALUES ({number}, $1, 'of ' || $1::{kind})", key)
        service.sql(f"INSERT INTO lake.records VALUES (99, $1::{kind}, 'old')", key)
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(job(service, kind)))
    assert service.cli("config", "check", "--connect").returncode == 0
    messages.send(
        *[{"agency_id": key, "run_id": f"r-{number}", "requested_by": "portal"} for number, key in enumerate(keys)]
    )
    messages.send({"agency_id": other, "run_id": "refused"})

    service.serve("--once").ended()

    (letter,) = messages.dead_letters()
    assert letter.header("dlq_reason") == "invalid_request"
    assert "agency_id: must be" in str(letter.header("dlq_message"))
    events = {event.json["run_id"]: event for event in messages.completions()}
    for number, key in enumerate(keys):
        event, run_id = events[f"r-{number}"], f"r-{number}"
        valid("run-completion", event.json)
        assert (event.json["state"], event.json["agency_id"], event.key) == ("succeeded", key, key.encode())

        folder = f"{FOLDERS[key]}/run_id={run_id}"
        objects = service.objects(folder)
        assert sorted(objects) == [f"{folder}/_manifest.json", f"{folder}/records/part-00000.ndjson"]
        rows = objects[f"{folder}/records/part-00000.ndjson"].body
        assert json.loads(rows) == {"id": number, "name": f"of {key}", "of": key}
        assert {each.metadata["agency-id"] for each in objects.values()} == {FOLDERS[key].partition("=")[2]}
        manifest = json.loads(objects[f"{folder}/_manifest.json"].body)
        valid("manifest", manifest)
        assert manifest["requested_by"] == event.json["requested_by"] == "portal"
        assert (manifest["agency_id"], event.json["manifest"]) == (
            key,
            f"s3://{service.bucket}/{folder}/_manifest.json",
        )

        (stored,) = service.sql("SELECT agency_id, agency_key FROM pipeline.runs WHERE run_id = $1", run_id)
        assert stored == {"agency_id": number_of(key), "agency_key": key}
        shown = service.cli("history", "--agency-id", key, "--json")
        assert [json.loads(line)["run_id"] for line in shown.stdout.splitlines()] == [run_id]
    loaded = service.sql("SELECT id, tenant::text, of FROM lake.records ORDER BY id")
    assert loaded == [{"id": number, "tenant": key, "of": key} for number, key in enumerate(keys)]

    again = service.cli("run", "agency_data_job", "--agency-id", keys[0], "--run-id", "r-0", "--json")
    assert (again.returncode, json.loads(again.stdout)["agency_id"]) == (0, keys[0])
