"""A bucket and a table of a warehouse from one read: killed between any two steps, each has the rows exactly once."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.service import (
    CHANGE_ROWS,
    OTHER,
    PREFIX,
    SMALL,
    Service,
    completion,
    eventually,
    finished,
    is_stopped,
    log_lines,
    one_dataset,
    published_in,
    valid,
)

RUN = "loaded-1"
ARTIFACT = f"{PREFIX}/agency_id={SMALL}/run_id={RUN}/records/part-00000.csv"
MANIFEST = f"{PREFIX}/agency_id={SMALL}/run_id={RUN}/_manifest.json"

WAREHOUSE = """
CREATE SCHEMA lake;
CREATE TABLE lake.agency_records (
    id bigint PRIMARY KEY, agency_id bigint, name text, amount numeric, attributes jsonb, note text DEFAULT 'none'
);
INSERT INTO lake.agency_records (id, agency_id, name, note) VALUES
    (1001, 1, 'as it was', 'kept'), (1999, 1, 'not exported any more', 'kept'), (3001, 3, 'of another agency', 'kept');
CREATE TABLE lake.written (id bigint);
CREATE FUNCTION lake.note_write() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO lake.written VALUES (NEW.id); RETURN NEW; END $$;
CREATE TRIGGER written AFTER INSERT OR UPDATE ON lake.agency_records
FOR EACH ROW EXECUTE FUNCTION lake.note_write();
"""


@pytest.fixture
def config(service: Service) -> Path:
    """A job that merges agency SMALL's records into a table, which tells of every row that is ever written to it."""
    service.sql(WAREHOUSE)
    service.environment["PIPELINE_SECRETS__WAREHOUSE_DSN"] = service.environment["PIPELINE_SOURCE__DSN"]
    service.environment["PIPELINE_WORKER__LEASE_SECONDS"] = "1.5"
    query = "SELECT id, name, amount, attributes FROM records WHERE agency_id = $1 ORDER BY id"
    job = one_dataset(query, steps=[{"filter": "id <> 1012"}], format="csv")
    job["destinations"] = [
        {"s3": {"bucket": service.bucket, "prefix": PREFIX}},
        {
            "postgres": {
                "dsn": "warehouse_dsn",
                "schema": "lake",
                "tables": {"records": "agency_records"},
                "mode": "merge",
                "key": ["id"],
            }
        },
    ]
    return service.job_config(job)


def table(service: Service) -> dict[int, tuple[str, str]]:
    """Id → name and note, of all agencies."""
    return {row["id"]: (row["name"], row["note"]) for row in service.sql("SELECT * FROM lake.agency_records")}


def merged(version: str, ids: range = range(1001, 1012)) -> dict[int, tuple[str, str]]:
    """The same after the run: its rows, those that were there, and columns that it doesn't have, untouched."""
    return {
        3001: ("of another agency", "kept"),
        1999: ("not exported any more", "kept"),
        **{id_: (f"record {id_ - 1000}, {version}", "kept" if id_ == 1001 else "none") for id_ in ids},
    }


BEFORE = {1001: ("as it was", "kept"), 1999: ("not exported any more", "kept"), 3001: ("of another agency", "kept")}


def written(service: Service) -> list[int]:
    """Ids of the rows that were written, as often as they were."""
    return [row["id"] for row in service.sql("SELECT id FROM lake.written ORDER BY id")]


def loads(service: Service) -> list[tuple[Any, ...]]:
    """What the warehouse notes of runs; none before the first one."""
    if service.sql("SELECT to_regclass('lake.pipeline_loads') AS t") == [{"t": None}]:
        return []
    rows = service.sql("SELECT run_id, dataset, agency_id, attempt, state, rows FROM lake.pipeline_loads")
    return [tuple(row.values()) for row in rows]


def staged(service: Service) -> list[str]:
    """Tables in which rows wait."""
    rows = service.sql(
        "SELECT relname FROM pg_class WHERE relnamespace = 'lake'::regnamespace AND relkind = 'r' "
        "AND starts_with(relname, '_pp_')"
    )
    return [row["relname"] for row in rows]


def test_bucket_and_table_get_the_same_rows(service: Service, config: Path) -> None:
    """From one read: the table equals the artifact, nobody else's rows change, and the manifest names objects only."""
    done = service.run(SMALL, "--run-id", RUN, "--config", config)

    assert done.returncode == 0, done.stderr
    manifest = published_in(service, RUN, SMALL)
    assert [entry["url"] for entry in manifest["entries"]] == [f"s3://{service.bucket}/{ARTIFACT}"]
    assert (manifest["rows_read"], manifest["rows_written"], manifest["rows_filtered"]) == (12, 11, 1)
    assert completion(done)["bytes_written"] == len(service.objects(ARTIFACT)[ARTIFACT].body)
    assert table(service) == merged("v1")
    assert (
        service.sql(
            "SELECT FROM records r FULL JOIN lake.agency_records t USING (id, agency_id, name, amount, attributes) "
            "WHERE id BETWEEN 1001 AND 1011 AND (r.id IS NULL OR t.id IS NULL)"
        )
        == []
    )
    assert written(service) == list(range(1001, 1012))
    assert loads(service) == [(RUN, "records", SMALL, 1, "loaded", 11)]
    assert staged(service) == []

    again = service.run(SMALL, "--run-id", RUN, "--config", config)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert len(written(service)) == 11


@pytest.mark.parametrize(
    ("place", "loaded", "seen"),
    [
        ("complete one", False, {ARTIFACT}),
        ("complete", True, {ARTIFACT}),
        ("publish", True, {ARTIFACT, MANIFEST}),
        ("finish", True, {ARTIFACT, MANIFEST}),
    ],
)
def test_killed_at_each_step_of_publication(
    service: Service, config: Path, place: str, loaded: bool, seen: set[str]
) -> None:
    """The table comes after the objects and before the manifest; whoever goes on never writes a row of it twice."""
    killed = finished(service.trapped(f"SIGKILL@{place}", SMALL, "--run-id", RUN, "--config", config))

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert set(service.listed()) == {f"{PREFIX}/_installation.json", *seen}
    assert table(service) == (merged("v1") if loaded else BEFORE)
    assert len(staged(service)) == (0 if loaded else 1)
    service.sql(CHANGE_ROWS)
    service.wait_for_free(RUN)

    done = service.run(SMALL, "--run-id", RUN, "--config", config)

    assert done.returncode == 0, done.stderr
    assert published_in(service, RUN, SMALL)["rows_written"] == 11
    assert table(service) == merged("v1"), "what was decided, though the source has other rows by now"
    assert written(service) == list(range(1001, 1012)), "each row once"
    assert loads(service) == [(RUN, "records", SMALL, 1, "loaded", 11)]
    assert (staged(service), service.recorded_uploads(), service.pending_uploads()) == ([], [], [])
    assert service.outcomes(RUN) == ["succeeded"]
    assert len(service.events(RUN)) == 1


def test_killed_before_the_decision(service: Service, config: Path) -> None:
    """Rows of the lost attempt never reach the table, and the one in which they waited goes with the next worker."""
    killed = finished(service.trapped("SIGKILL@verify", SMALL, "--run-id", RUN, "--config", config))

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (table(service), len(staged(service))) == (BEFORE, 1)
    service.sql(CHANGE_ROWS)
    service.wait_for_free(RUN)

    done = service.run(SMALL, "--run-id", RUN, "--config", config)

    assert done.returncode == 0, done.stderr
    assert published_in(service, RUN, SMALL)["attempt"] == 2
    assert table(service) == {**merged("v2"), 1100: ("added, v2", "none")}
    assert written(service) == [*range(1001, 1012), 1100]
    assert loads(service) == [(RUN, "records", SMALL, 2, "loaded", 12)]
    assert (staged(service), service.recorded_uploads()) == ([], [])


@pytest.mark.parametrize(
    ("stopped_after", "key", "loaded", "state"),
    [("prepare", ARTIFACT, False, "given_up"), ("complete", MANIFEST, True, "loaded")],
    ids=["the-artifact", "the-manifest"],
)
def test_somebody_elses_object_in_the_place_of(
    service: Service, config: Path, stopped_after: str, key: str, loaded: bool, state: str
) -> None:
    """
    The run fails with `conflicting_objects`, its own objects go, and the other one stays. A table that hadn't been
    loaded yet never is; one that had keeps its rows, and the log says so.
    """
    process = service.trapped(f"SIGSTOP@{stopped_after}", SMALL, "--run-id", RUN, "--config", config)
    eventually(lambda: is_stopped(process))
    service.s3.put_object(Bucket=service.bucket, Key=key, Body=b"somebody else's")
    process.send_signal(signal.SIGCONT)

    done = finished(process)

    assert done.returncode == 1, done.stderr
    told = completion(done)
    assert (told["state"], told["error"]["kind"], told["manifest"]) == ("failed", "conflicting_objects", None)
    assert {name: stored.body for name, stored in service.objects(f"{PREFIX}/agency_id=").items()} == {
        key: b"somebody else's"
    }
    assert table(service) == (merged("v1") if loaded else BEFORE)
    assert loads(service) == [(RUN, "records", SMALL, 1, state, 11)]
    said = [line for line in log_lines(done) if line["event"] == "rows_of_a_failed_run_stay"]
    assert bool(said) is loaded
    assert (staged(service), service.recorded_uploads(), service.pending_uploads()) == ([], [], [])
    (event,) = service.events(RUN)
    assert json.loads(event["value"]) == told

    assert service.run(OTHER, "--run-id", "other-1", "--config", config).returncode == 0


# -- tables only -----------------------------------------------------------------------------------


def tables_only(service: Service, config: Path) -> Path:
    """The same job without the bucket, and without any setting that names one."""
    service.environment.pop("PIPELINE_DESTINATION", None)
    job = yaml.safe_load(config.read_text())
    del job["destinations"][0]
    return service.job_config(job)


def manifests(service: Service) -> list[dict[str, Any]]:
    """Those among the tables; none before the first one."""
    if service.sql("SELECT to_regclass('lake.pipeline_manifests') AS t") == [{"t": None}]:
        return []
    return [json.loads(row["manifest"]) for row in service.sql("SELECT manifest FROM lake.pipeline_manifests")]


def test_tables_need_no_object_store(service: Service, config: Path) -> None:
    """The manifest is a row beside the tables, and names them; nothing is in the bucket."""
    config = tables_only(service, config)
    done = service.run(SMALL, "--run-id", RUN, "--config", config)

    assert done.returncode == 0, done.stderr
    (manifest,) = manifests(service)
    valid("manifest", manifest)
    (entry,) = manifest["entries"]
    told = completion(done)
    place = told["manifest"].removesuffix(f"/agency_id={SMALL}/run_id={RUN}/_manifest.json")
    assert place.startswith("postgresql://")
    assert (entry["url"], entry["rows"]) == (f"{place}/agency_records", 11)
    assert told["bytes_written"] == entry["meta"]["content_length"] > 0
    assert table(service) == merged("v1")
    assert service.listed() == []

    again = service.run(SMALL, "--run-id", RUN, "--config", config)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert len(written(service)) == 11


@pytest.mark.parametrize(("place", "loaded", "published"), [("prepare", 0, 0), ("publish", 11, 1)])
def test_tables_only_killed_at_each_step(
    service: Service, config: Path, place: str, loaded: int, published: int
) -> None:
    """Rows are loaded once, and there is one manifest, of what was decided."""
    config = tables_only(service, config)
    killed = finished(service.trapped(f"SIGKILL@{place}", SMALL, "--run-id", RUN, "--config", config))

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (len(written(service)), len(manifests(service))) == (loaded, published)
    before = manifests(service)
    service.sql(CHANGE_ROWS)
    service.wait_for_free(RUN)

    done = service.run(SMALL, "--run-id", RUN, "--config", config)

    assert done.returncode == 0, done.stderr
    (manifest,) = manifests(service)
    assert before in ([], [manifest])
    assert len(written(service)) == manifest["rows_written"] == 11, "the source has other rows by now"
    assert staged(service) == []
