"""Objects as a config asks for them: below keys of its own, and partitioned by the values of columns."""

from __future__ import annotations

import json
import signal

from tests.acceptance.service import (
    LARGE,
    PREFIX,
    SMALL,
    Service,
    body_of,
    completion,
    finished,
    message,
    one_dataset,
    published_in,
    rows_of,
)

RUN = "keyed-1"


def test_partitions_by_the_values_of_a_column(service: Service) -> None:
    """Each folder has the rows of its value, in order; the manifest is beside the other runs' and names them all."""
    query = "SELECT *, id % 3 = 0 AS third FROM records WHERE agency_id = $1 ORDER BY status, third, id"
    key = "exports/{date}/run_id={run_id}/{dataset}/status={status}/third={third}"
    config = service.job_config(one_dataset(query, object_key=key, steps=[{"drop": ["attributes"]}], format="csv"))

    done = service.run(SMALL, "--run-id", RUN, "--config", config)

    assert done.returncode == 0, done.stderr
    manifest_key = f"{PREFIX}/agency_id={SMALL}/run_id={RUN}/_manifest.json"
    manifest = json.loads(service.objects(manifest_key)[manifest_key].body)
    folder = f"{PREFIX}/exports/{manifest['snapshot_at'][:10]}/run_id={RUN}/records"
    ids: dict[str, list[int]] = {}
    for entry in manifest["entries"]:
        place = entry["url"].removeprefix(f"s3://{service.bucket}/{folder}/").removesuffix("/part-00000.csv")
        rows = rows_of(entry, body_of(service, entry))
        assert {f"status={row['status']}/third={'true' if row['third'] == 't' else 'false'}" for row in rows} == {place}
        ids[place] = [int(row["id"]) for row in rows]
    assert ids == {
        "status=active/third=false": [1001, 1003, 1004, 1006, 1007, 1009, 1012],
        "status=active/third=true": [1002, 1008, 1011],
        "status=deleted/third=false": [1010],
        "status=deleted/third=true": [1005],
    }
    assert set(service.listed()) == {
        f"{PREFIX}/_installation.json",
        manifest_key,
        *(f"{folder}/{place}/part-00000.csv" for place in ids),
    }
    assert completion(done)["bytes_written"] == sum(entry["meta"]["content_length"] for entry in manifest["entries"])
    assert service.pending_uploads() == []


def test_a_key_that_s3_refuses_is_found_before_the_decision(service: Service) -> None:
    """The run fails; a name that is too long would otherwise keep it decided and unpublished for ever."""
    query = "SELECT n AS id, repeat('x', 300) AS name FROM generate_series(1, 3) AS n"
    config = service.job_config(one_dataset(query, args=(), object_key="run_id={run_id}/name={name}"))

    done = service.run(LARGE, "--run-id", RUN, "--config", config)

    assert (done.returncode, completion(done)["error"]["kind"]) == (1, "data_error")
    assert service.listed() == []


def test_the_manifest_has_the_schema_and_a_run_may_insist_on_it(service: Service) -> None:
    """Types as the source declares them; a run that would publish others fails, and publishes nothing."""
    query = "SELECT id, amount, created_at, ARRAY[status] AS states, name FROM records WHERE agency_id = $1 ORDER BY id"
    steps = [{"rename": {"name": "display_name"}}, {"add": {"by": "{run_id}"}}]
    config = service.job_config(one_dataset(query, steps=steps, expect={"schema": "same"}))
    first = service.run(SMALL, "--run-id", RUN, "--config", config)
    assert first.returncode == 0, first.stderr
    (dataset,) = published_in(service, RUN, SMALL)["datasets"]
    assert {each["name"]: each["type"] for each in dataset["schema"]["columns"]} == {
        "id": "integer",
        "amount": "number",
        "created_at": "timestamptz",
        "states": "text[]",
        "display_name": "text",
        "by": "text",
    }

    service.sql("ALTER TABLE records ALTER amount TYPE double precision")
    done = service.run(SMALL, "--run-id", "keyed-2", "--config", config)

    assert (done.returncode, completion(done)["error"]["kind"]) == (1, "expectation_failed")
    assert f"run '{RUN}', the last that succeeded: 'amount' is float, and was number" in message(done)
    assert not service.objects(f"{PREFIX}/agency_id={SMALL}/run_id=keyed-2/")


def test_the_newest_manifest_is_pointed_to(service: Service) -> None:
    """A run that was killed before it could, and is finished after a newer one, does not turn the pointer back."""
    service.environment["PIPELINE_WORKER__LEASE_SECONDS"] = "1.5"
    query = "SELECT id FROM records WHERE agency_id = $1 ORDER BY id"
    config = service.job_config(one_dataset(query, latest=True))
    key = f"{PREFIX}/agency_id={SMALL}/records/_latest.json"
    killed = finished(service.trapped("SIGKILL@publish", SMALL, "--run-id", RUN, "--config", config))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not service.objects(key)
    service.wait_for_free(RUN)

    newer = service.run(SMALL, "--run-id", "keyed-2", "--config", config)
    assert newer.returncode == 0, newer.stderr
    pointer = service.objects(key)[key]
    older = service.run(SMALL, "--run-id", RUN, "--config", config)

    assert older.returncode == 0, older.stderr
    assert service.objects(key)[key] == pointer
    manifest = published_in(service, "keyed-2", SMALL)
    assert json.loads(pointer.body) == {
        "version": 1,
        "job": "agency_data_job",
        "agency_id": SMALL,
        "dataset": "records",
        "run_id": "keyed-2",
        "manifest": completion(newer)["manifest"],
        "snapshot_at": manifest["snapshot_at"],
        "rows_written": 12,
        "fingerprint": manifest["datasets"][0]["schema"]["fingerprint"],
    }
