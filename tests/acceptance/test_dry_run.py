"""`run --dry-run` reads and transforms as a run does, and writes nothing at all."""

from __future__ import annotations

import json

import pytest

from tests.acceptance.service import (
    JOB,
    LARGE,
    SMALL,
    Service,
    changed,
    completion,
    log_lines,
    message,
    one_dataset,
)

EVERYTHING_BUT_WRITING = {"state": "succeeded", "dry_run": True, "manifest": None, "error": None, "attempt": 1}


def test_a_dry_run_changes_nothing_and_counts_as_the_run_does(service: Service) -> None:
    """Objects with their metadata, uploads and every table of the history stay; counts and bytes are the real run's."""
    assert service.run(SMALL, "--run-id", "before-1").returncode == 0
    before = service.everything()

    dry = service.run(LARGE, "--run-id", "same-1", "--dry-run")

    assert dry.returncode == 0, dry.stderr
    assert service.everything() == before
    told = completion(dry)
    assert EVERYTHING_BUT_WRITING.items() <= told.items()
    assert {line["trace_id"] for line in log_lines(dry)} <= {told["trace_id"]}

    real = completion(service.run(LARGE, "--run-id", "same-1"))
    for count in ("rows_read", "rows_written", "rows_filtered", "rows_rejected", "bytes_written"):
        assert told[count] == real[count]


def test_a_dry_run_says_so_in_words(service: Service) -> None:
    """Without --json a person is told that nothing was written."""
    done = service.cli("run", "agency_data_job", "--agency-id", SMALL, "--dry-run")

    assert done.returncode == 0, done.stderr
    assert "dry run: nothing was written" in done.stdout
    assert "19 read, 17 written, 2 filtered" in done.stdout


def test_a_dry_run_spends_no_run_id(service: Service) -> None:
    """The id of a finished run may be tried dry with another request: the run itself isn't looked at."""
    assert service.run(SMALL, "--run-id", "used-1").returncode == 0
    before = service.everything()

    done = service.run(LARGE, "--run-id", "used-1", "--dry-run", "--format", "csv")

    assert done.returncode == 0, done.stderr
    assert completion(done)["agency_id"] == LARGE
    assert service.everything() == before


@pytest.mark.parametrize(
    ("job", "code", "kind"),
    [
        (changed(JOB, payments={"steps": [{"python": "acceptance_steps:fail"}]}), 1, "step_failed"),
        (changed(JOB, payments={"expect": {"min_rows": 1000}}), 1, "expectation_failed"),
        (one_dataset("SELECT * FROM recordz", args=()), 65, "query_invalid"),
    ],
    ids=["step", "expectation", "query"],
)
def test_a_dry_run_that_fails_changes_nothing_either(service: Service, job: object, code: int, kind: str) -> None:
    """It ends with the run's own code and error, after reading datasets that were fine."""
    before = service.everything()

    done = service.run(LARGE, "--run-id", "dry-2", "--dry-run", "--config", service.job_config(job))

    assert done.returncode == code, done.stderr
    told = completion(done)
    assert (told["state"], told["dry_run"], told["error"]["kind"]) == ("failed", True, kind)
    assert told["error"]["message"] in message(done)
    assert service.everything() == before


def test_a_dry_run_needs_neither_history_nor_destination(service: Service) -> None:
    """Only the source has to be there: no schema is made, no bucket is asked, no credentials are looked for."""
    service.sql("DROP SCHEMA pipeline CASCADE")
    env = {name: None for name in service.environment if name.startswith(("PIPELINE_S3__", "PIPELINE_DESTINATION"))}

    done = service.run(SMALL, "--dry-run", env={**env, "PIPELINE_HISTORY__DSN": "postgresql://nobody@127.0.0.1:1/x"})

    assert done.returncode == 0, done.stderr
    assert completion(done)["rows_written"] == 17
    assert service.sql("SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg%'  ORDER BY 1") == [
        {"nspname": "information_schema"},
        {"nspname": "public"},
    ]
    assert service.listed() == []


def test_a_dry_run_looks_back_at_the_real_history(service: Service) -> None:
    """`since: last_success` means the same as for a run: what the last one has exported isn't read again."""
    query = "SELECT id FROM records WHERE agency_id = $1 AND created_at >= $2"
    config = service.job_config(one_dataset(query, args=("agency_id", "since"), since="last_success"))
    first = service.run(SMALL, "--config", config)
    assert first.returncode == 0, first.stderr

    dry = service.run(SMALL, "--dry-run", "--config", config)

    assert dry.returncode == 0, dry.stderr
    assert completion(first)["rows_read"] > completion(dry)["rows_read"] == 0


def test_a_query_cant_write(service: Service) -> None:
    """The snapshot is read-only: a query that would change something is refused, dry or not."""
    service.sql("CREATE SEQUENCE counter")
    config = service.job_config(one_dataset("SELECT nextval('counter') AS n", args=()))

    for options in ((), ("--dry-run",)):
        done = service.run(SMALL, "--config", config, *options)
        assert done.returncode == 65, done.stderr
        assert "read-only" in message(done)

    assert service.sql("SELECT is_called FROM counter") == [{"is_called": False}]


def test_a_preview_shows_the_first_rows_after_the_steps(service: Service) -> None:
    """As lines of NDJSON they are the run's own, and a dry run shows them in a table. Nothing is written."""
    query = "SELECT id, amount, status FROM records WHERE agency_id = $1 ORDER BY id"
    job = one_dataset(query, steps=[{"filter": "status != 'deleted'"}, {"rename": {"status": "state"}}], format="csv")
    service.environment["PIPELINE_JOB_CONFIG_FILE"] = str(service.job_config(job))
    before = service.everything()
    asked = ("agency_data_job", "--agency-id", SMALL)

    shown = service.cli("preview", *asked, "--rows", 3, "-o", "json")
    dry = service.cli("run", *asked, "--dry-run", "--show", 3)

    assert (shown.returncode, dry.returncode) == (0, 0), shown.stderr + dry.stderr
    assert "records: the first 3 rows" in shown.stderr
    assert service.everything() == before
    assert service.run(SMALL, "--format", "ndjson").returncode == 0
    [part] = [each.body for key, each in service.objects().items() if "/part-" in key]
    assert shown.stdout.splitlines() == part.decode().splitlines()[:3]
    titles, *rows = dry.stdout.split("\n\n")[1].splitlines()
    assert titles.split() == ["id", "amount", "state"]
    assert [row.split()[0] for row in rows] == [str(json.loads(line)["id"]) for line in shown.stdout.splitlines()]


@pytest.mark.parametrize("options", [("--show", 3), ("--dry-run", "--show", 3, "--json")])
def test_rows_are_shown_by_dry_runs_in_tables_only(service: Service, options: tuple[object, ...]) -> None:
    """Else the output would be no completion, or the run no preview."""
    done = service.cli("run", "agency_data_job", "--agency-id", SMALL, *options)

    assert done.returncode == 64
    assert "`pipeline-processing preview`" in done.stderr
