"""One run from request to manifest, as a user, an operator and a reader of the bucket see it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from tests.acceptance.service import (
    CHANGE_ROWS,
    JOB,
    LARGE,
    OTHER,
    PREFIX,
    SMALL,
    NewService,
    Service,
    StoredObject,
    changed,
    completion,
    dataset_rows,
    files_in,
    finished,
    log_lines,
    one_dataset,
    published,
    published_in,
    staged_in,
    valid,
)

RUN = "happy-1"


@dataclass(frozen=True)
class Exported:
    """A finished run, looked at from all sides."""

    service: Service
    done: subprocess.CompletedProcess[str]
    objects: dict[str, StoredObject]
    manifest: dict[str, Any]
    history: dict[str, Any]


@pytest.fixture(scope="module")
def exported(new_service: NewService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """One run of the large agency, started from scratch, for the tests that only look at what it left."""
    with new_service(tmp_path_factory.mktemp("exported"), warm=False) as service:
        done = service.run(LARGE, "--run-id", RUN, "--label", "team=Zürich", "--label", "order=A 17")
        assert done.returncode == 0, done.stderr
        yield Exported(service, done, service.objects(), published_in(service, RUN, LARGE), service.history(RUN))


def test_a_run_leaves_exactly_the_objects_of_the_contract(exported: Exported) -> None:
    """One artifact per dataset, the manifest and the installation's mark; no upload is left pending or recorded."""
    folder = f"{PREFIX}/agency_id={LARGE}/run_id={RUN}"
    assert set(exported.objects) == {
        f"{PREFIX}/_installation.json",
        f"{folder}/records/part-00000.ndjson",
        f"{folder}/documents/part-00000.ndjson",
        f"{folder}/payments/part-00000.csv",
        f"{folder}/_manifest.json",
    }
    (installation,) = exported.service.sql("SELECT installation_id::text FROM pipeline.installation")
    assert json.loads(exported.objects[f"{PREFIX}/_installation.json"].body) == installation
    assert exported.service.pending_uploads() == []
    assert exported.service.recorded_uploads() == []


def test_a_large_artifact_is_a_multipart_upload(exported: Exported) -> None:
    """More than 1 MiB goes up in parts, which its ETag shows; less is one PUT."""
    etags = {key.split("/")[-2]: stored.etag for key, stored in exported.objects.items() if "part-" in key}
    assert etags["documents"].strip('"').endswith("-1")
    assert "-" not in etags["records"] + etags["payments"]


def test_counts_reconcile_with_the_source(exported: Exported) -> None:
    """What manifest, history and completion count is what an independent count of the tables gives."""
    service, told = exported.service, completion(exported.done)
    (counted,) = service.sql(
        """
        SELECT (SELECT count(*) FROM records WHERE agency_id = $1 AND status <> 'deleted') AS written,
               (SELECT count(*) FROM records WHERE agency_id = $1 AND status = 'deleted') AS filtered,
               (SELECT count(*) FROM documents WHERE agency_id = $1) AS documents,
               (SELECT count(*) FROM payments WHERE agency_id = $1) AS payments
        """,
        LARGE,
    )
    by_name = {dataset["name"]: dataset for dataset in exported.manifest["datasets"]}
    assert by_name["records"]["rows_written"] == counted["written"] == 10
    assert by_name["records"]["rows_filtered"] == counted["filtered"] == 2
    assert by_name["documents"]["rows_written"] == counted["documents"] == 2600
    assert by_name["payments"]["rows_written"] == counted["payments"] == 4
    artifacts = sum(len(stored.body) for key, stored in exported.objects.items() if "/part-" in key)
    assert exported.history["bytes_written"] == told["bytes_written"] == artifacts
    for count in ("rows_read", "rows_written", "rows_filtered", "rows_rejected"):
        assert exported.history[count] == told[count] == exported.manifest[count]


def test_the_bill_is_the_same_everywhere(exported: Exported) -> None:
    """With all that the process has used until the decision: it is there for this run only."""
    bill = exported.history["bill"]
    assert bill == completion(exported.done)["bill"] == exported.manifest["bill"]
    assert bill["bytes_written"] == exported.history["bytes_written"]
    assert bill["client_cpu_ms"] > 100  # imports alone take longer
    shown = exported.service.cli("history", "--run-id", RUN).stdout
    assert re.search(rf"^used  .* CPU, .*, {bill['s3_requests']} S3 requests$", shown, re.M)


def test_rows_are_what_postgres_says(exported: Exported) -> None:
    """NDJSON lines equal row_to_json after the steps, and CSV fields tell null from the empty string."""
    service = exported.service
    expected = service.sql(
        "SELECT row_to_json(r) AS row FROM (SELECT id, name AS display_name, amount, created_at, attributes, "
        "$2::text AS exported_by FROM records WHERE agency_id = $1 AND status <> 'deleted' ORDER BY id) r",
        LARGE,
        RUN,
    )
    assert dataset_rows(service, exported.manifest, "records") == [each["row"] for each in expected]
    payments = exported.objects[f"{PREFIX}/agency_id={LARGE}/run_id={RUN}/payments/part-00000.csv"].body.decode()
    assert payments.splitlines() == [
        "id,payee,amount",
        '2001,"payee ""1"", v1",1.00',
        "2002,,2.00",
        '2003,"",3.00',
        '2004,"payee ""4"", v1",4.00',
    ]


def test_the_history_has_the_run(exported: Exported) -> None:
    """One row for the run and one for its attempt, both succeeded, with times in order and no lease left."""
    run = exported.history
    assert (run["state"], run["attempt"], run["agency_id"], run["job"]) == ("succeeded", 1, LARGE, "agency_data_job")
    assert run["queued_at"] <= run["started_at"] <= run["finished_at"]
    assert run["duration_ms"] == pytest.approx((run["finished_at"] - run["started_at"]).total_seconds() * 1000, abs=1)
    assert run["lease_expires_at"] is None
    assert (run["error_kind"], run["error_message"], run["dry_run"]) == (None, None, False)
    assert set(run["timings"]) == {"source", "steps", "format", "upload"}
    folder = f"agency_id={LARGE}/run_id={RUN}"
    assert run["manifest_url"] == f"s3://{exported.service.bucket}/{PREFIX}/{folder}/_manifest.json"
    (attempt,) = exported.service.attempts(RUN)
    assert (attempt["attempt"], attempt["outcome"], attempt["fence"]) == (1, "succeeded", run["fence"])
    assert attempt["started_at"] <= attempt["finished_at"]
    assert exported.service.sql("SELECT FROM pipeline.plans") == []


def test_the_manifest_agrees_with_the_history(exported: Exported) -> None:
    """Attempt, snapshot and trace of the manifest are those of the run, and the snapshot lies within it."""
    manifest, run = exported.manifest, exported.history
    assert manifest["attempt"] == run["attempt"]
    snapshot_at = datetime.fromisoformat(manifest["snapshot_at"])
    created_at = datetime.fromisoformat(manifest["created_at"])
    assert run["started_at"] <= snapshot_at <= created_at
    assert [dataset["name"] for dataset in manifest["datasets"]] == ["records", "documents", "payments"]
    assert [entry["dataset"] for entry in manifest["entries"]] == ["records", "documents", "payments"]


def test_the_event_waits_in_the_outbox_and_is_what_was_printed(exported: Exported) -> None:
    """One event, unsent since nobody serves this history; its bytes are those on stdout, its headers CloudEvents."""
    told = completion(exported.done)
    (event,) = exported.service.events(RUN)
    assert event["value"].decode() + "\n" == exported.done.stdout
    assert event["sent_at"] is None
    assert (event["type"], event["key"]) == ("agency.run.succeeded", str(LARGE))
    assert event["headers"]["ce_id"] == event["event_id"]
    assert event["headers"]["ce_type"] == "agency.run.succeeded"
    assert event["headers"]["ce_specversion"] == "1.0"
    assert (told["state"], told["attempt"], told["error"]) == ("succeeded", 1, None)
    assert told["manifest"] == exported.history["manifest_url"]
    assert datetime.fromisoformat(told["finished_at"]) == exported.history["finished_at"]


def test_the_trace_id_is_the_same_everywhere(exported: Exported) -> None:
    """History, attempt, manifest, objects, completion, event and every log line name one trace."""
    trace_id = exported.history["trace_id"]
    (attempt,), (event,) = exported.service.attempts(RUN), exported.service.events(RUN)
    lines = log_lines(exported.done)
    assert len(lines) >= 2
    assert {line["trace_id"] for line in lines} == {trace_id}
    assert {(line["run_id"], line["agency_id"]) for line in lines} == {(RUN, LARGE)}
    assert attempt["trace_id"] == exported.manifest["trace_id"] == completion(exported.done)["trace_id"] == trace_id
    assert event["headers"]["traceparent"].split("-")[1] == trace_id
    of_the_run = [stored for key, stored in exported.objects.items() if f"run_id={RUN}/" in key]
    assert {stored.metadata["trace-id"] for stored in of_the_run} == {trace_id}


def test_the_labels_are_the_same_everywhere(exported: Exported) -> None:
    """In history, manifest and completion as they were given; in the metadata of objects percent-encoded."""
    labels = {"order": "A 17", "team": "Zürich"}
    assert exported.history["labels"] == exported.manifest["labels"] == completion(exported.done)["labels"] == labels
    of_the_run = [stored for key, stored in exported.objects.items() if f"run_id={RUN}/" in key]
    assert {stored.metadata["labels"] for stored in of_the_run} == {"order=A%2017&team=Z%C3%BCrich"}


def test_the_history_command_shows_the_run(exported: Exported) -> None:
    """`history --run-id --json` has the contract's columns and the attempts; a person gets the same in words."""
    as_json = exported.service.cli("history", "--run-id", RUN, "--json")
    shown = json.loads(as_json.stdout)
    assert (shown["run_id"], shown["state"], shown["trace_id"]) == (RUN, "succeeded", exported.history["trace_id"])
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["succeeded"]
    for column in ("rows_read", "rows_written", "rows_filtered", "rows_rejected", "bytes_written", "duration_ms"):
        assert shown[column] == exported.history[column]
    assert exported.history["manifest_url"] in exported.service.cli("history", "--run-id", RUN).stdout


def test_without_json_the_result_is_told_in_words(service: Service) -> None:
    """State, rows and manifest are on stdout, logs on stderr, and a run without an id gets one."""
    service.warm = False

    done = service.cli("run", "agency_data_job", "--agency-id", SMALL)

    assert done.returncode == 0, done.stderr
    (run,) = service.sql("SELECT run_id, manifest_url, trace_id FROM pipeline.runs")
    for fact in ("succeeded", run["run_id"], run["manifest_url"], run["trace_id"], "19 read, 17 written, 2 filtered"):
        assert fact in done.stdout
    published_in(service, run["run_id"], SMALL)


def test_compressed_artifacts_open_with_stock_tools(service: Service) -> None:
    """`gzip -t` accepts a .gz and zstandard a .zst, and the rows in them are the same as without."""
    job = changed(
        JOB, records={"compression": "gzip"}, documents={"compression": "zstd"}, payments={"compression": "gzip"}
    )
    plain = service.run(LARGE, "--run-id", "plain-1")
    packed = service.run(LARGE, "--run-id", "packed-1", "--config", service.job_config(job))

    assert (plain.returncode, packed.returncode) == (0, 0), packed.stderr
    before, after = published_in(service, "plain-1", LARGE), published_in(service, "packed-1", LARGE)
    assert [entry["compression"] for entry in after["entries"]] == ["gzip", "zstd", "gzip"]
    for dataset in ("documents", "payments"):
        assert dataset_rows(service, after, dataset) == dataset_rows(service, before, dataset)
    for key, stored in service.objects().items():
        if key.endswith(".gz"):
            tested = subprocess.run(["gzip", "-t"], input=stored.body, capture_output=True, check=False)
            assert (tested.returncode, tested.stderr) == (0, b""), key


def test_all_datasets_are_read_in_one_snapshot(service: Service) -> None:
    """A change that somebody commits while the first dataset is read isn't seen by the last."""
    job = changed(JOB, records={"steps": [{"python": "acceptance_steps:change_payments"}]})

    done = service.run(SMALL, "--run-id", "snapshot-1", "--config", service.job_config(job))

    assert done.returncode == 0, done.stderr
    manifest = published_in(service, "snapshot-1", SMALL)
    assert [row["payee"] for row in dataset_rows(service, manifest, "payments")] == [
        'payee "1", v1',
        "",
        "",
        'payee "4", v1',
    ]
    assert {row["payee"] for row in service.sql("SELECT payee FROM payments")} == {"changed meanwhile"}


def test_a_request_may_choose_datasets_and_format(service: Service) -> None:
    """`--dataset` twice exports those two, in the config's order, and `--format` replaces their formats."""
    done = service.run(
        SMALL, "--run-id", "chosen-1", "--dataset", "payments", "--dataset", "records", "--format", "csv"
    )

    assert done.returncode == 0, done.stderr
    manifest = published_in(service, "chosen-1", SMALL)
    assert [(e["dataset"], e["format"]) for e in manifest["entries"]] == [("records", "csv"), ("payments", "csv")]
    assert len(dataset_rows(service, manifest, "records")) == 10


def test_since_until_and_params_reach_the_query(service: Service) -> None:
    """They are bound as values: times with their zone, and text that looks like SQL stays text."""
    job = one_dataset(
        "SELECT id, $4 || ' - ' || name AS name FROM records "
        "WHERE agency_id = $1 AND created_at >= $2 AND created_at < $3 ORDER BY id",
        args=("agency_id", "since", "until", "label"),
    )
    label = "'; DROP TABLE records; --"

    done = service.run(
        SMALL,
        *("--run-id", "window-1", "--config", service.job_config(job)),
        *("--since", "2026-01-03T02:00+02:00", "--until", "2026-01-05T00:00Z", "--param", f"label={label}"),
    )

    assert done.returncode == 0, done.stderr
    rows = dataset_rows(service, published_in(service, "window-1", SMALL), "records")
    assert rows == [{"id": id_, "name": f"{label} - record {id_ - 1000}, v1"} for id_ in (1002, 1003)]
    request = service.history("window-1")["request"]
    assert datetime.fromisoformat(request["since"]) == datetime.fromisoformat("2026-01-03T00:00Z")
    assert request["params"] == {"label": label}


def test_only_what_is_new_without_a_guard_against_null(service: Service) -> None:
    """The first run of `since: last_success` exports everything, the next one only what has come since."""
    query = "SELECT id FROM records WHERE agency_id = $1 AND created_at >= $2 AND created_at < $3 ORDER BY id"
    job = one_dataset(query, args=("agency_id", "since", "until"), since="last_success")

    def run(run_id: str, name: str = "records", **options: Any) -> list[int]:
        config = service.job_config(changed(job, records={"name": name, **options}))
        done = service.run(SMALL, "--run-id", run_id, "--config", config)
        assert done.returncode == 0, done.stderr
        return [row["id"] for row in dataset_rows(service, published_in(service, run_id, SMALL), name)]

    everything = [row["id"] for row in service.sql("SELECT id FROM records WHERE agency_id = $1 ORDER BY id", SMALL)]
    assert run("null-1", name="never", initial=None) == []
    assert run("initial-1", name="later", initial="2026-01-03T00:00:00Z") == everything[1:]
    assert run("first-1") == everything
    service.sql("INSERT INTO records (id, agency_id, name, created_at) VALUES ($1, $2, 'new', now())", 1999, SMALL)
    assert run("second-1") == [1999]


def test_several_agencies_at_once(service: Service) -> None:
    """Runs of different agencies in processes of their own all publish, beside each other below one prefix."""
    agencies = (SMALL, LARGE, OTHER)
    started = [service.start_run(agency, "--run-id", f"beside-{agency}") for agency in agencies]

    assert [finished(process).returncode for process in started] == [0, 0, 0]
    for agency in agencies:
        manifest = published_in(service, f"beside-{agency}", agency)
        assert {row["id"] // 1000 for row in dataset_rows(service, manifest, "records")} == {agency}


def test_runs_of_one_agency_take_turns(service: Service) -> None:
    """With one run at a time per agency, two that start together both succeed, one after the other."""
    job = changed(JOB, records={"steps": [{"python": "acceptance_steps:take_a_second"}]})
    options = ("--config", service.job_config(job))
    started = [service.start_run(SMALL, "--run-id", f"turn-{n}", *options) for n in (1, 2)]

    assert [finished(process).returncode for process in started] == [0, 0]
    turns = sorted(
        (attempt["started_at"], attempt["finished_at"]) for n in (1, 2) for attempt in service.attempts(f"turn-{n}")
    )
    assert len(turns) == 2
    assert all(before[1] <= after[0] for before, after in pairwise(turns))
    for n in (1, 2):
        published_in(service, f"turn-{n}", SMALL)


def test_a_later_run_never_touches_an_earlier_one(service: Service) -> None:
    """A second run of the same agency has a folder of its own; the first one's objects stay byte for byte."""
    assert service.run(SMALL, "--run-id", "first-1").returncode == 0
    before = service.objects()
    service.sql(CHANGE_ROWS)

    assert service.run(SMALL, "--run-id", "second-1").returncode == 0

    after = service.objects()
    assert {key: after[key] for key in before} == before
    assert published_in(service, "second-1", SMALL)["rows_written"] == 18


def test_a_run_to_a_folder(service: Service) -> None:
    """With a `file://` destination the same tree lies in the folder, and nothing is left staged."""
    folder = service.to_folder()

    done = service.run(LARGE, "--run-id", "folder-1")

    assert done.returncode == 0, done.stderr
    manifest = published(files_in(folder), "folder-1", LARGE, folder.as_uri())
    assert completion(done)["manifest"] == f"{folder.as_uri()}/agency_id={LARGE}/run_id=folder-1/_manifest.json"
    assert manifest["rows_written"] == 2614
    assert staged_in(folder) == []
    assert service.listed() == []


def test_no_secret_is_told_anywhere(service: Service) -> None:
    """Passwords of DSNs and S3's secret are in no output, row, event or object, whether a run succeeds or not."""
    postgres = service.servers.postgres
    service.sql("CREATE ROLE reader_with_password LOGIN PASSWORD 's3cret-pw'")
    service.sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_with_password")
    dsn = f"postgresql://reader_with_password:s3cret-pw@127.0.0.1:{postgres.port}/{service.database}"
    history = f"postgresql://{postgres.user}:hist0ry-pw@127.0.0.1:{postgres.port}/{service.database}"
    env = {"PIPELINE_SOURCE__DSN": dsn, "PIPELINE_HISTORY__DSN": history, "PIPELINE_WORKER__MAX_ATTEMPTS": "1"}
    wrong = [
        {"PIPELINE_SOURCE__DSN": dsn.replace(f":{postgres.port}/", ":1/")},
        {"PIPELINE_SOURCE__DSN": f"{dsn}-missing"},
        {"PIPELINE_SOURCE__DSN": dsn.replace("reader", "nobody")},
        {"PIPELINE_SOURCE__DSN": f"{dsn}?sslmode=s3cret-pw"},
        {"PIPELINE_SOURCE__DSN": dsn.replace("@", "/@")},
        {"PIPELINE_DESTINATION": "s3://user:s3cret-pw@bucket/x"},
    ]
    try:
        good = service.run(SMALL, "--run-id", "secret-1", env=env)
        started = [
            service.start_run(SMALL, "--run-id", f"wrong-{number}", env=env | change)
            for number, change in enumerate(wrong)
        ]
        bad = [finished(process) for process in started]
        shown = [service.cli("config", "show", env=env), service.cli("config", "check", "--connect", env=env)]
    finally:
        service.sql("DROP OWNED BY reader_with_password; DROP ROLE reader_with_password;")

    assert good.returncode == 0, good.stderr
    assert {done.returncode for done in bad} == {69, 77, 78}, [done.stderr for done in bad]
    told = "".join(done.stdout + done.stderr for done in (good, *bad, *shown)) + repr(service.everything())
    for secret in ("s3cret-pw", "hist0ry-pw", service.servers.seaweedfs.secret_access_key):
        assert secret not in told


def test_a_restored_history_changes_no_result(service: Service) -> None:
    """A run that it has lost is refused, because its manifest stands: operations.md says so about backups."""
    assert service.run(SMALL, "--run-id", "lost").returncode == 0
    objects = service.objects()
    service.sql("TRUNCATE pipeline.runs CASCADE")

    again = service.run(SMALL, "--run-id", "lost")

    assert (again.returncode, completion(again)["error"]["kind"]) == (1, "conflicting_objects")
    assert (service.objects(), service.pending_uploads()) == (objects, [])


def test_the_published_request_schema_takes_what_the_history_stores(exported: Exported) -> None:
    """The request in a history row is valid against the published schema, so that it can be submitted again."""
    valid("job-request", exported.history["request"])
