"""`config check` tells every fault at once; `config show` tells every setting and no secret."""

import io
import json
import os
import sys
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pipeline_processing.app.checks import CheckResult
from pipeline_processing.cli.main import main
from pipeline_processing.errors import AccessDenied, SourceUnavailable
from pipeline_processing.settings.keys import SETTINGS

DSN = "postgresql://app:tops3cret@db/agencies"
SHOWN = "postgresql://app:********@db/agencies"
JOB_CONFIG = """
job: agency_data_job
datasets:
  - {name: records, source: {postgres: {query: "SELECT * FROM records WHERE agency_id = $1", args: [agency_id]}}}
  - {name: events, source: {postgres: {query: "SELECT * FROM events WHERE agency_id = $1", args: [agency_id]}}}
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("PIPELINE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Settings and a job config with which a run would start; the job config's path."""
    job_config = tmp_path / "job.yaml"
    job_config.write_text(JOB_CONFIG)
    monkeypatch.setenv("PIPELINE_SOURCE__DSN", DSN)
    monkeypatch.setenv("PIPELINE_DESTINATION", "s3://exports/agencies")
    monkeypatch.setenv("PIPELINE_JOB_CONFIG_FILE", str(job_config))
    return job_config


def servers_that_answer(monkeypatch: pytest.MonkeyPatch, *results: CheckResult) -> None:
    async def check_servers(_settings: object, _job_config: object, *, mask: object) -> AsyncIterator[CheckResult]:
        for result in results:
            yield result

    module = types.ModuleType("pipeline_processing.app.checks")
    module.check_servers = check_servers  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pipeline_processing.app.checks", module)


# -- check ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("complete")
def test_what_is_right_is_said(capsys: pytest.CaptureFixture[str], complete: Path) -> None:
    assert main(["config", "check"]) == 0

    out, err = capsys.readouterr()
    assert f"job config   ok  {complete}: records, events" in out
    assert "settings     ok" in out
    assert err == ""


@pytest.mark.usefixtures("complete")
def test_several_job_configs(capsys: pytest.CaptureFixture[str], complete: Path, tmp_path: Path) -> None:
    """Each is checked, whatever is wrong with the others."""
    wrong, other = tmp_path / "wrong.yaml", tmp_path / "other.yaml"
    wrong.write_text("datasets: 5")
    other.write_text(complete.read_text().replace("events", "others"))

    assert main(["config", "check", str(wrong), str(complete), "--config", str(other)]) == 65

    out, err = capsys.readouterr()
    assert f"job config   failed  {wrong}\n" in out
    assert f"job config   ok  {complete}: records, events" in out
    assert f"job config   ok  {other}: records, others" in out
    assert err.count("Error: ") == 1
    assert "wrong.yaml:1:11 datasets" in err
    assert main(["config", "check", str(other), str(complete)]) == 0


def test_the_option_beats_the_variable(
    complete: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIPELINE_JOB_CONFIG_FILE", "/nowhere/job.yaml")

    assert main(["config", "check", "--config", str(complete)]) == 0
    assert str(complete) in capsys.readouterr().out


def test_faults_of_both_are_told_at_once(
    complete: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two wrong settings and one of the job config make three lines, and 78."""
    complete.write_text("datasets: [{name: records, sauce: 1}]")
    monkeypatch.setenv("PIPELINE_WORKER__CONCURRENCY", "four")
    monkeypatch.setenv("PIPELINE_NONSENSE", "1")

    assert main(["config", "check"]) == 78

    out, err = capsys.readouterr()
    assert out == ""
    for fault in (
        "PIPELINE_WORKER__CONCURRENCY: must be a whole number ≥ 1, not 'four'",
        "PIPELINE_NONSENSE: unknown setting",
        "job.yaml:1:28 datasets[records].sauce: unknown key: did you mean source?",
    ):
        assert fault in err
    assert "Traceback" not in err


def test_json_has_the_errors(
    complete: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With their kinds, so that a program needs nothing of stderr."""
    where = str(complete)
    right = {"check": "job config", "ok": True, "detail": f"{where}: records, events"}
    monkeypatch.setenv("PIPELINE_SECRETS__HOST", "db-internal")
    servers_that_answer(
        monkeypatch,
        CheckResult("source", ok=False, detail="db:5432", error=SourceUnavailable("No answer of db-internal.")),
    )
    assert main(["config", "check", "--connect", "-o", "json"]) == 69
    first, *_, last = _objects(capsys)
    assert first == right | {"error_kind": None, "error_message": None}
    assert last == {"check": "source", "ok": False, "detail": "db:5432"} | {
        "error_kind": "source_unavailable",
        "error_message": "No answer of ***.",
    }

    complete.write_text("datasets: [{name: records, sauce: 1}]")
    assert main(["config", "check", "-o", "json"]) == 65
    [fault] = _objects(capsys)
    assert (fault["check"], fault["detail"], fault["error_kind"]) == ("job config", where, "invalid_job_config")
    assert "job.yaml:1:28 datasets[records].sauce: unknown key" in fault["error_message"]


def _objects(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out, err = capsys.readouterr()
    assert err == ""
    return [json.loads(line) for line in out.splitlines()]


def test_a_wrong_job_config_alone_is_65(complete: Path, capsys: pytest.CaptureFixture[str]) -> None:
    complete.write_text("datasets: []")

    assert main(["config", "check"]) == 65
    assert "datasets" in capsys.readouterr().err


def test_triggers_are_checked_where_they_are_set(
    complete: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against the job config too."""
    triggers = complete.parent / "triggers.yaml"
    monkeypatch.setenv("PIPELINE_TRIGGERS_FILE", str(triggers))
    triggers.write_text("triggers: [{name: t, topic: x, agency_id: key, datasets: [records]}]")
    assert main(["config", "check"]) == 0
    assert f"triggers     ok  {triggers}: t" in capsys.readouterr().out

    triggers.write_text("triggers: [{name: t, topic: x, agency_id: key, datasets: [cases]}]")
    assert main(["config", "check"]) == 65
    assert "the job config has no dataset 'cases'; it has records, events" in capsys.readouterr().err


def test_what_a_run_needs_and_nobody_set_is_told_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check"]) == 78

    err = capsys.readouterr().err
    assert "Set PIPELINE_SOURCE__DSN" in err
    assert "--config or PIPELINE_JOB_CONFIG_FILE" in err


def test_a_destination_may_stand_in_the_job_config(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPELINE_DESTINATION")
    assert main(["config", "check"]) == 78

    complete.write_text(f"{JOB_CONFIG}\ndestinations: [{{s3: {{bucket: exports}}}}]\n")
    assert main(["config", "check"]) == 0


# -- check --connect -----------------------------------------------------------------------------


@pytest.mark.usefixtures("complete")
def test_servers_that_answer_are_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    servers_that_answer(
        monkeypatch,
        CheckResult("source", ok=True, detail="PostgreSQL 18.0"),
        CheckResult("history", ok=True, detail="migrated"),
    )

    assert main(["config", "check", "--connect"]) == 0

    out = capsys.readouterr().out
    assert "source       ok  PostgreSQL 18.0" in out
    assert "history      ok  migrated" in out


@pytest.mark.usefixtures("complete")
def test_all_servers_are_tried_and_the_gravest_fault_gives_the_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    servers_that_answer(
        monkeypatch,
        CheckResult("source", ok=False, detail="db:5432", error=SourceUnavailable("Can't reach the source.")),
        CheckResult("history", ok=True, detail="migrated"),
        CheckResult(
            "destination", ok=False, detail="s3://exports", error=AccessDenied("May not write to s3://exports.")
        ),
    )

    assert main(["config", "check", "--connect"]) == 77

    out, err = capsys.readouterr()
    assert "source       failed  db:5432" in out
    assert "history      ok  migrated" in out
    assert err == "Error: Can't reach the source.\nError: May not write to s3://exports.\n"


def test_servers_are_left_alone_while_settings_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    servers_that_answer(
        monkeypatch, CheckResult("source", ok=False, detail="reached", error=SourceUnavailable("reached"))
    )

    assert main(["config", "check", "--connect"]) == 78


# -- show ----------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("complete")
def test_columns_tell_value_and_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show"]) == 0

    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["PIPELINE_SOURCE__DSN"] == [SHOWN, "environment"]
    assert rows["PIPELINE_DESTINATION"] == ["s3://exports/agencies", "environment"]
    assert rows["PIPELINE_WORKER__CONCURRENCY"] == ["4", "default"]
    assert rows["PIPELINE_S3__REGION"] == ["(not", "set)", "default"]


@pytest.mark.usefixtures("complete")
def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--json"]) == 0

    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert shown["PIPELINE_SOURCE__DSN"] == {"value": SHOWN, "origin": "environment"}
    assert shown["PIPELINE_S3__REGION"] == {"value": None, "origin": "default"}


@pytest.mark.usefixtures("complete")
def test_named_secrets_are_shown_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each that is set, masked, with where it comes from."""
    (tmp_path / "token").write_text("tops3cret\n")
    monkeypatch.setenv("PIPELINE_SECRETS__CRM_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("PIPELINE_SECRETS__ADDRESSES", "tops3cret")

    assert main(["config", "show", "--json"]) == 0

    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert {variable: entry for variable, entry in shown.items() if "SECRETS" in variable} == {
        "PIPELINE_SECRETS__ADDRESSES": {"value": "********", "origin": "environment"},
        "PIPELINE_SECRETS__CRM_TOKEN": {"value": "********", "origin": f"file (secret) {tmp_path / 'token'}"},
    }


@pytest.mark.parametrize("arguments", [["config", "show"], ["config", "show", "--json"], ["config", "check"]])
@pytest.mark.parametrize("terminal", [False, True])
def test_no_secret_is_printed(
    arguments: list[str],
    terminal: bool,
    complete: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not to a file, not to a terminal."""
    of_s3 = ("S3__ACCESS_KEY_ID", "S3__SECRET_ACCESS_KEY", "S3__SESSION_TOKEN")
    for variable in (*of_s3, "KAFKA__PASSWORD", "SECRETS__CRM_TOKEN"):
        monkeypatch.setenv(f"PIPELINE_{variable}", "tops3cret")
    screen = Terminal()
    if terminal:
        monkeypatch.setattr(sys, "stdout", screen)

    assert main(arguments) == 0

    out, err = capsys.readouterr()
    text = screen.getvalue() + out + err
    assert text
    assert "tops3cret" not in text


@pytest.mark.usefixtures("complete")
def test_a_terminal_gets_a_table_with_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "160")

    assert main(["config", "show"]) == 0

    header, *rows = screen.getvalue().splitlines()
    assert "setting" in header
    assert len(rows) == len(SETTINGS)
    assert all("PIPELINE_" in row for row in rows)


def test_wrong_settings_are_not_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PIPELINE_WORKER__CONCURRENCY", "four")

    assert main(["config", "show"]) == 78

    out, err = capsys.readouterr()
    assert out == ""
    assert "PIPELINE_WORKER__CONCURRENCY: must be a whole number" in err
