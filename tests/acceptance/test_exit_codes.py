"""
How `run` ends when something is wrong: its exit code, one message that names cause and remedy, and nothing published.

The codes are those of the contract's table.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.service import (
    HUGE,
    JOB,
    NOBODY,
    OTHER,
    PREFIX,
    SLOW_QUERY,
    SMALL,
    NewService,
    Service,
    changed,
    completion,
    dataset_rows,
    eventually,
    finished,
    message,
    one_dataset,
    published_in,
)

CLOSED = "127.0.0.1:1"
"""Nothing listens there."""


@pytest.fixture(scope="module")
def shared(new_service: NewService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service for the tests in which nothing is published, which they check."""
    with new_service(tmp_path_factory.mktemp("exit-codes")) as service:
        yield service
        assert service.listed() == []


# -- wrong usage, request, job config or settings: nothing is even accepted ------------------------


@dataclass(frozen=True)
class Refused:
    """A command line that is refused before anything is done."""

    code: int
    says: tuple[str, ...]
    arguments: tuple[str, ...] = ("run", "agency_data_job", "--agency-id", "1")
    env: Mapping[str, str | None] = field(default_factory=dict)
    job: Mapping[str, Any] | str | None = None


RUN = ("run", "agency_data_job")

EVERYBODYS = "SELECT * FROM records -- WHERE agency_id = $1"
NEWER = one_dataset("SELECT * FROM records WHERE agency_id = $1 AND created_at >= $2", args=("agency_id", "since"))
UNTIL = {"add": {"until": "{until}"}}
REGIONAL = "SELECT * FROM records WHERE agency_id = $1 AND status = $2 AND id > $3"
DECLARING = {
    **one_dataset(REGIONAL, args=("agency_id", "region", "depth")),
    "params": {"region": {"type": "text", "required": True}, "depth": {"type": "integer", "default": 3}},
}

REFUSED = {
    "without its option": Refused(64, ("--agency-id", "--help"), RUN),
    "unknown command": Refused(64, ("explode", "--help"), ("explode",)),
    "unknown option": Refused(64, ("--colour", "--help"), (*RUN, "--agency-id", "1", "--colour", "red")),
    "agency isn't a number": Refused(64, ("--agency-id", "integer"), (*RUN, "--agency-id", "twelve")),
    "param without =": Refused(
        64, ("--param", "'reason'", "KEY=VALUE"), (*RUN, "--agency-id", "1", "--param", "reason")
    ),
    "agency 0": Refused(65, ("agency_id", "greater than or equal to 1"), (*RUN, "--agency-id", "0")),
    "every fault of a request": Refused(
        65,
        ("agency_id", "run_id", "since", "format"),
        (*RUN, "--agency-id", "-1", "--run-id", "no spaces", "--since", "soon", "--format", "xml"),
    ),
    "unknown job": Refused(65, ("'other_job'", "agency_data_job"), ("run", "other_job", "--agency-id", "1")),
    "unknown dataset": Refused(
        65,
        ("'invoices'", "records, documents, payments", "Correct the request"),
        (*RUN, "--agency-id", "1", "--dataset", "invoices"),
    ),
    "since that nothing uses": Refused(
        65,
        ("since: is not used by records, documents, payments",),
        (*RUN, "--agency-id", "1", "--since", "2026-01-18T10:00Z"),
    ),
    "until that nothing asked for uses": Refused(
        65,
        ("until: is not used by records.", "These datasets use: agency_id, since."),
        (*RUN, "--agency-id", "1", "--dataset", "records", "--until", "2026-01-18T10:00Z"),
        job={"datasets": [NEWER["datasets"][0], {**NEWER["datasets"][0], "name": "both", "steps": [UNTIL]}]},
    ),
    "misspelt param": Refused(
        65, ("params.regoin: is not used by",), (*RUN, "--agency-id", "1", "--param", "regoin=x")
    ),
    "params that break their declaration": Refused(
        65,
        (
            *("params.depth: must be an integer", "params.regoin: isn't declared", "params.region: is required"),
            "declares region (text, required), depth (integer)",
        ),
        (*RUN, "--agency-id", "1", "--param", "depth=x", "--param", "regoin=x"),
        job=DECLARING,
    ),
    "args that nothing provides": Refused(
        65,
        (
            "datasets[records].source.postgres.args[1]: It uses regoin, which isn't defined",
            "declares region (text, required)",
        ),
        job=DECLARING
        | one_dataset(REGIONAL, args=("agency_id", "regoin", "depth"), steps=[{"add": {"r": "{region}"}}]),
    ),
    "query of everybody's rows": Refused(
        65, ("datasets[records]", "doesn't use `agency_id`", "shared: true"), job=one_dataset(EVERYBODYS, shared=False)
    ),
    "every fault of a job config": Refused(
        65,
        ("datasets[records].source", "colour: unknown key", "steps[0]: unknown step", "compression", "destinations"),
        job={
            "job": "agency_data_job",
            "datasets": [
                {
                    "name": "records",
                    "source": {"postgres": {"query": "SELECT 1", "colour": "red"}},
                    "steps": [{"shuffle": True}],
                    "compression": "rar",
                }
            ],
            "destinations": [],
        },
    ),
    "python function that isn't there": Refused(
        65,
        ("'python: no_such_module:f'", "Install"),
        job=one_dataset("SELECT 1 AS one", args=(), steps=[{"python": "no_such_module:f"}]),
    ),
    "job config that isn't YAML": Refused(65, ("isn't YAML",), job="datasets: ["),
    "job config that isn't there": Refused(
        65, ("/nowhere/job.yaml", "--config"), env={"PIPELINE_JOB_CONFIG_FILE": "/nowhere/job.yaml"}
    ),
    "no job config": Refused(
        78, ("No job config", "PIPELINE_JOB_CONFIG_FILE", "--config"), env={"PIPELINE_JOB_CONFIG_FILE": None}
    ),
    "no destination": Refused(78, ("No destination", "PIPELINE_DESTINATION"), env={"PIPELINE_DESTINATION": None}),
    "no source": Refused(78, ("PIPELINE_SOURCE__DSN",), env={"PIPELINE_SOURCE__DSN": None}),
    "every fault of the settings": Refused(
        78,
        ("PIPELINE_WORKER__CONCURRENCY", "PIPELINE_WROKER__MAX_ATTEMPTS", "PIPELINE_SOURCE__DSN", "Did you mean"),
        env={
            "PIPELINE_WORKER__CONCURRENCY": "0",
            "PIPELINE_WROKER__MAX_ATTEMPTS": "3",
            "PIPELINE_SOURCE__DSN": "mysql://here",
        },
    ),
    "history isn't migrated": Refused(
        78, ("'empty_schema'", "pipeline-processing migrate"), env={"PIPELINE_HISTORY__SCHEMA": "empty_schema"}
    ),
    "history can't be reached": Refused(
        69,
        (f"Postgres at {CLOSED}", "Check that it is up"),
        env={"PIPELINE_HISTORY__DSN": f"postgresql://nobody@{CLOSED}/history", "PIPELINE_WORKER__MAX_ATTEMPTS": "2"},
    ),
    "S3 can't be reached": Refused(
        69,
        (CLOSED, "PIPELINE_S3__ENDPOINT_URL"),
        env={"PIPELINE_S3__ENDPOINT_URL": f"http://{CLOSED}", "PIPELINE_WORKER__MAX_ATTEMPTS": "1"},
    ),
    "bucket isn't there": Refused(
        78, ("NoSuchBucket", "Create the bucket"), env={"PIPELINE_DESTINATION": "s3://no-such-bucket/agencies"}
    ),
    "folder isn't there": Refused(78, ("/nowhere",), env={"PIPELINE_DESTINATION": "file:///nowhere"}),
    "S3 key is unknown": Refused(
        77, ("InvalidAccessKeyId", "PIPELINE_S3__ACCESS_KEY_ID"), env={"PIPELINE_S3__ACCESS_KEY_ID": "somebody"}
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_refused(shared: Service, case: Refused) -> None:
    """What can't be done at all isn't accepted: one message, nothing on stdout, no history row, in bounded time."""
    env = dict(case.env)
    if isinstance(case.job, str):
        path = shared.folder / "broken.yaml"
        path.write_text(case.job)
        env["PIPELINE_JOB_CONFIG_FILE"] = str(path)
    elif case.job is not None:
        env["PIPELINE_JOB_CONFIG_FILE"] = str(shared.job_config(case.job))
    before = shared.tables()
    started = time.monotonic()

    done = shared.cli(*case.arguments, env=env)

    assert done.returncode == case.code, done.stderr
    assert done.stdout == ""
    for words in case.says:
        assert words in message(done)
    assert time.monotonic() - started < 30
    assert shared.tables() == before


@pytest.fixture(scope="module")
def latin1(shared: Service) -> Iterator[str]:
    """The DSN of a database that can't store every text."""
    name = f"latin1-{uuid4().hex[:12]}"
    shared.sql(f"CREATE DATABASE \"{name}\" ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    yield shared.servers.postgres.dsn(name)
    shared.servers.postgres.drop_database(name)


@pytest.mark.parametrize("command", ["migrate", "serve", "config check --connect"])
def test_a_history_that_cannot_store_every_text(shared: Service, latin1: str, command: str) -> None:
    """Refused before anything is done, with the encoding and what to do: a request in Japanese would stop all."""
    done = shared.cli(*command.split(), env={"PIPELINE_HISTORY__DSN": latin1})

    assert done.returncode == 78, done.stderr
    assert "LATIN1" in done.stdout + done.stderr
    assert "ENCODING 'UTF8'" in done.stdout + done.stderr


# -- runs that fail --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failed:
    """A run that is accepted, and fails for good."""

    code: int
    kind: str
    says: tuple[str, ...]
    job: Mapping[str, Any]
    env: Mapping[str, str] = field(default_factory=dict)


ALL_RECORDS = "SELECT * FROM records WHERE agency_id = $1"

FAILED = {
    "query doesn't parse": Failed(
        65, "query_invalid", ("'records'", "syntax error", "job config"), one_dataset("SELEKT 1", args=())
    ),
    "query of an unknown table": Failed(
        65, "query_invalid", ('"recordz" does not exist', "job config"), one_dataset("SELECT * FROM recordz", args=())
    ),
    "query of an unknown column": Failed(
        65,
        "query_invalid",
        ('"naem" does not exist', "job config"),
        one_dataset("SELECT naem FROM records WHERE agency_id = $1"),
    ),
    "query fails midway": Failed(
        1,
        "query_failed",
        ("division by zero", "Correct the data"),
        one_dataset("SELECT id, 1 / (id - 1006) AS n FROM records WHERE agency_id = $1"),
    ),
    "param that nobody sent": Failed(
        65,
        "query_invalid",
        ("'district'", "--param district=VALUE"),
        one_dataset("SELECT $1::text AS district", args=("district",)),
    ),
    "unknown column in a step": Failed(
        65, "unknown_column", ("'colour'", "select"), one_dataset(ALL_RECORDS, steps=[{"select": ["id", "colour"]}])
    ),
    "python step raises": Failed(
        1,
        "step_failed",
        ("acceptance_steps:fail", "row 3 has no postcode", "replay"),
        one_dataset(ALL_RECORDS, steps=[{"python": "acceptance_steps:fail"}]),
    ),
    "python step adds rows": Failed(
        1,
        "step_added_rows",
        ("acceptance_steps:double", "never add any"),
        one_dataset(ALL_RECORDS, steps=[{"python": "acceptance_steps:double"}]),
    ),
    "expectation": Failed(
        1,
        "expectation_failed",
        ("'records'", "min_rows"),
        one_dataset("SELECT * FROM records WHERE agency_id = $1 AND false", expect={"min_rows": 1}),
    ),
    "source can't be reached": Failed(
        69,
        "source_unavailable",
        (f"Postgres at {CLOSED}", "Check that it is up"),
        JOB,
        env={"PIPELINE_SOURCE__DSN": f"postgresql://nobody@{CLOSED}/agencies", "PIPELINE_WORKER__MAX_ATTEMPTS": "2"},
    ),
}


@pytest.mark.parametrize("case", FAILED.values(), ids=FAILED.keys())
def test_failed(shared: Service, case: Failed) -> None:
    """A run that fails says so in its completion, its history row and its event; nothing of it is ever visible."""
    run_id = f"failed-{uuid4().hex[:8]}"
    env = {"PIPELINE_HISTORY__DSN": shared.environment["PIPELINE_SOURCE__DSN"], **case.env}

    done = shared.run(SMALL, "--run-id", run_id, "--config", shared.job_config(case.job), env=env)

    holds_as_failed(shared, done, run_id, case.code, case.kind, case.says)


def holds_as_failed(
    service: Service, done: Any, run_id: str, code: int, kind: str, says: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Code, message, completion, history and event of a failed run agree, and nothing is visible. The completion."""
    assert done.returncode == code, done.stderr
    for words in says:
        assert words in message(done)
    told = completion(done)
    assert (told["state"], told["manifest"]) == ("failed", None)
    assert (told["error"]["kind"], told["error"]["exit_code"]) == (kind, code)
    assert told["error"]["message"] in message(done)
    run = service.history(run_id)
    assert (run["state"], run["error_kind"], run["error_message"]) == ("failed", kind, told["error"]["message"])
    assert run["manifest_url"] is None
    assert service.attempts(run_id)[-1]["outcome"] == "failed"
    (event,) = service.events(run_id)
    assert event["type"] == "agency.run.failed"
    assert event["value"].decode() + "\n" == done.stdout
    assert [key for key in service.listed() if f"run_id={run_id}/" in key] == []
    assert service.pending_uploads() == []
    assert service.recorded_uploads() == []
    return told


def test_denied_by_s3(shared: Service) -> None:
    """A key that may only read: 77, and the message says which rights are needed."""
    s3 = shared.servers.seaweedfs
    env = {
        "PIPELINE_S3__ACCESS_KEY_ID": s3.readonly_access_key_id,
        "PIPELINE_S3__SECRET_ACCESS_KEY": s3.readonly_secret_access_key,
    }

    done = shared.run(SMALL, "--run-id", "denied-1", env=env)

    holds_as_failed(shared, done, "denied-1", 77, "access_denied", ("AccessDenied", "s3:PutObject"))


def test_denied_by_postgres(shared: Service) -> None:
    """A user without SELECT: 77 for the source; and for the history, before anything is accepted."""
    role = f"without_rights_{uuid4().hex[:8]}"
    shared.sql(f"CREATE ROLE {role} LOGIN")
    shared.sql(f"GRANT USAGE ON SCHEMA pipeline TO {role}")
    own = shared.environment["PIPELINE_SOURCE__DSN"]
    theirs = own.replace(f"//{shared.servers.postgres.user}@", f"//{role}@")
    try:
        source = shared.run(
            SMALL, "--run-id", "denied-2", env={"PIPELINE_SOURCE__DSN": theirs, "PIPELINE_HISTORY__DSN": own}
        )
        history = shared.run(SMALL, "--run-id", "denied-3", env={"PIPELINE_HISTORY__DSN": theirs})
    finally:
        shared.sql(f"DROP OWNED BY {role}; DROP ROLE {role};")

    holds_as_failed(shared, source, "denied-2", 77, "access_denied", ("permission denied for table records", "grant"))
    assert (history.returncode, history.stdout) == (77, "")
    assert "permission denied" in message(history)
    assert shared.state("denied-3") is None


def test_a_source_that_breaks_off_is_tried_again(service: Service) -> None:
    """A connection that is cut off midway costs an attempt, not the run."""
    job = changed(JOB, records={"steps": [{"python": "acceptance_steps:cut_off_the_source_once"}]})

    done = service.run(SMALL, "--run-id", "cut-1", "--config", service.job_config(job))

    assert done.returncode == 0, done.stderr
    assert completion(done)["attempt"] == 2
    assert service.outcomes("cut-1") == ["retrying", "succeeded"]
    assert service.attempts("cut-1")[0]["error_kind"] == "source_unavailable"
    published_in(service, "cut-1", SMALL)


def test_a_folder_that_is_away_for_a_moment_is_waited_for(service: Service) -> None:
    """A volume that is unmounted while a run writes to it costs an attempt, not the run."""
    folder = service.to_folder()
    job = one_dataset(
        "SELECT * FROM records WHERE agency_id = $1 ORDER BY id", steps=[{"python": "acceptance_steps:unmount_once"}]
    )

    done = service.run(SMALL, "--run-id", "away-1", "--config", service.job_config(job))

    assert done.returncode == 0, done.stderr
    assert service.outcomes("away-1")[-1] == "succeeded"
    assert service.attempts("away-1")[0]["error_kind"] == "destination_unavailable"
    assert len(list(folder.glob("agency_id=*/run_id=away-1/_manifest.json"))) == 1


# -- no rows -----------------------------------------------------------------------------------------


def test_an_agency_without_rows_succeeds(service: Service) -> None:
    """Zero rows are a zero-row artifact and a manifest: NDJSON is empty, CSV has its header."""
    done = service.run(NOBODY, "--run-id", "nobody-1")

    assert done.returncode == 0, done.stderr
    assert published_in(service, "nobody-1", NOBODY)["rows_written"] == 0
    bodies = {key.split("/")[-2]: each.body for key, each in service.objects().items() if "/part-" in key}
    assert bodies == {"records": b"", "documents": b"", "payments": b"id,payee,amount\n"}


# -- a run id that was used before -------------------------------------------------------------------


def test_a_finished_run_prints_its_result_again(service: Service) -> None:
    """The same command again prints the same bytes and does no work, even where the rows have changed."""
    first = service.run(SMALL, "--run-id", "again-1")
    service.sql("DELETE FROM records")
    before = service.everything()

    second = service.run(SMALL, "--run-id", "again-1")

    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    assert second.stdout == first.stdout
    assert service.everything() == before


def test_a_failed_run_fails_again_in_the_same_way(shared: Service) -> None:
    """Failed is final: the same command exits with its code and prints the same, although it would succeed now."""
    job = shared.job_config(one_dataset(ALL_RECORDS, steps=[{"python": "acceptance_steps:fail"}]))
    first = shared.run(OTHER, "--run-id", "again-2", "--config", job)
    before = shared.everything()

    second = shared.run(OTHER, "--run-id", "again-2")

    assert (first.returncode, second.returncode) == (1, 1)
    assert second.stdout == first.stdout
    assert message(second) == message(first)
    assert shared.everything() == before


def test_a_run_id_names_one_request_for_good(service: Service) -> None:
    """Another request under the same id is refused with 65, and the first run stays as it is."""
    assert service.run(SMALL, "--run-id", "once-1").returncode == 0

    def left() -> list[object]:
        return [service.history("once-1"), service.attempts("once-1"), service.events("once-1"), service.objects()]

    before = left()
    for agency, options in ((OTHER, ()), (SMALL, ("--format", "csv"))):
        done = service.run(agency, "--run-id", "once-1", *options)

        assert (done.returncode, done.stdout) == (65, "")
        assert "'once-1' exists already" in message(done)
        assert "use another id" in message(done)
        assert left() == before


def test_a_prefix_of_another_installation_is_refused(service: Service) -> None:
    """A second history may not publish below the first one's prefix: 78, and both histories stay as they are."""
    other = {"PIPELINE_HISTORY__SCHEMA": "other_history"}
    assert service.cli("migrate", env=other).returncode == 0
    assert service.run(SMALL, "--run-id", "foreign-1").returncode == 0
    before = service.everything()

    done = service.run(SMALL, "--run-id", "foreign-2", env=other)

    assert (done.returncode, done.stdout) == (78, "")
    assert f"s3://{service.bucket}/{PREFIX} belongs to" in message(done)
    assert "PIPELINE_HISTORY__DSN" in message(done)
    assert service.everything() == before
    assert service.sql("SELECT FROM other_history.runs") == []


# -- signals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.long), (signal.SIGTERM, 143)]
)
def test_a_signal_hands_the_run_back(service: Service, sent: signal.Signals, code: int) -> None:
    """While it streams a run is held; a signal unwinds it, and the same command goes on with it at once."""
    service.sql("CREATE TABLE slow AS SELECT true AS so")
    query = SLOW_QUERY.replace("> 200 THEN", "> 200 AND (SELECT so FROM slow) THEN")
    slow = service.job_config(changed(JOB, documents={"source": {"postgres": {"query": query, "args": ["agency_id"]}}}))
    process = service.start_run(HUGE, "--run-id", "handed-1", "--config", slow)
    eventually(service.pending_uploads)
    other = service.run(HUGE, "--run-id", "handed-1")
    process.send_signal(sent)
    asked_at = time.monotonic()
    done = finished(process)

    assert (other.returncode, other.stdout) == (75, ""), other.stderr
    assert "is held by worker" in message(other)
    assert time.monotonic() - asked_at < 10
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert (service.state("handed-1"), service.outcomes("handed-1")) == ("queued", ["handed_back"])
    assert (service.pending_uploads(), service.recorded_uploads(), service.listed()) == ([], [], [])

    service.sql("UPDATE slow SET so = false")
    again = service.run(HUGE, "--run-id", "handed-1", "--config", slow)

    assert again.returncode == 0, again.stderr
    assert service.outcomes("handed-1") == ["handed_back", "succeeded"]
    manifest = published_in(service, "handed-1", HUGE)
    assert len(dataset_rows(service, manifest, "documents")) == 4400


def test_a_signal_after_the_decision_lets_the_run_go(service: Service) -> None:
    """A prepared run isn't queued again: its lease is given up, and the next worker publishes the stored plan."""
    done = finished(service.trapped("SIGTERM@prepare", SMALL, "--run-id", "handed-2"))

    assert (done.returncode, done.stdout) == (143, ""), done.stderr
    run = service.history("handed-2")
    assert (run["state"], run["lease_expires_at"]) == ("prepared", None)

    again = service.run(SMALL, "--run-id", "handed-2")

    assert again.returncode == 0, again.stderr
    assert service.outcomes("handed-2") == ["succeeded"]
    published_in(service, "handed-2", SMALL)
