"""`triggers check`: what each trigger does, what an example event would do, and the exit codes."""

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
from pipeline_processing.errors import TopicMissing

EXAMPLES = Path(__file__).parents[3] / "schemas" / "examples"
FULL, SMALL = EXAMPLES / "triggers.full.yaml", EXAMPLES / "triggers.small.yaml"
PAID = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "/billing",
    "type": "invoice.paid",
    "time": "2026-01-18T10:00:00Z",
    "data": {"status": "final", "amount": {"currency": "CHF"}, "customer": {"agency_id": 12}},
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("PIPELINE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def event(tmp_path: Path) -> Any:
    """Writes an example event; its path."""

    def write(document: Any) -> str:
        path = tmp_path / "event.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return str(path)

    return write


def test_each_trigger_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    """When it asks, for which agencies, and for what."""
    assert main(["triggers", "check", str(FULL)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"triggers  ok  {FULL}: 3 triggers\n")
    for phrase in (
        'an event on billing.events of type invoice.paid or invoice.cancelled with status = "final" and amount.curren',
        "once no event has come for 30s, at the latest 10m after the first, at most once every 1h for an agency",
        'datasets records, reports; region = the event\'s data.region, or else null; kind = "invoices"; since = ',
        "0 3 * * * in Europe/Zurich",
        "of SELECT id FROM agencies WHERE active",
        "made up for within 6h, the newest only",
        "trigger:nightly",
        "1, 2, 3",
    ):
        assert phrase in out
    (ticks,) = [line for line in out.splitlines() if "next" in line and " 03:00 +0" in line]
    assert ticks.count(",") == 2


def test_the_file_may_come_from_the_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without either, 78."""
    assert main(["triggers", "check"]) == 78
    assert "PIPELINE_TRIGGERS_FILE" in capsys.readouterr().err
    monkeypatch.setenv("PIPELINE_TRIGGERS_FILE", str(SMALL))
    assert main(["triggers", "check"]) == 0


def test_every_fault_is_told_and_65(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With lines, on stderr."""
    path = tmp_path / "triggers.yaml"
    path.write_text("triggers:\n  - {topic: t}\n  - {topic: t, agency_id: key, foo: 1}\n")
    assert main(["triggers", "check", str(path)]) == 65
    out, err = capsys.readouterr()
    assert out == ""
    assert "triggers.yaml:2:5 triggers[0]: needs `agency_id`" in err
    assert "triggers.yaml:3:32 triggers[1].foo: unknown key" in err
    assert main(["triggers", "check", str(tmp_path / "nowhere.yaml")]) == 65


def test_the_job_config_is_checked_against(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One given, or that of the settings."""
    config = tmp_path / "job.yaml"
    config.write_text(
        'datasets: [{name: cases, source: {postgres: {query: "SELECT * FROM c WHERE id = $1", args: [agency_id]}}}]'
    )
    assert main(["triggers", "check", str(SMALL), "--config", str(config)]) == 65
    assert "the job config has no dataset 'records'; it has cases" in capsys.readouterr().err


def test_an_event_shows_what_would_be_asked(event: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """By each trigger that it matches, and why not by the others."""
    assert main(["triggers", "check", str(FULL), "--event", event(PAID)]) == 0
    out = capsys.readouterr().out
    assert "invoices: matches, and asks once no event has come for 30s" in out
    assert '{"run_id": "trigger-invoices-12-…", "agency_id": 12, "datasets": ["records", "reports"]' in out

    assert main(["triggers", "check", str(SMALL), "--event", event(PAID)]) == 0
    out = capsys.readouterr().out
    assert "agencies.events-agency.updated: doesn't match: its type is invoice.paid, not agency.updated" in out


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ({"headers": {"ce_type": "x"}, "value": {}}, "its type is x, not agency.updated"),
        ({"topic": "others", "value": {}}, "it is on others, not agencies.events"),
        ({"agency_id": 7}, "it has no CloudEvents type, not agency.updated"),
        ([], "it has no CloudEvents type, not agency.updated"),
    ],
)
def test_an_event_may_be_a_message_or_a_body(
    event: Any, capsys: pytest.CaptureFixture[str], document: Any, found: str
) -> None:
    """Whatever is at hand."""
    assert main(["triggers", "check", str(SMALL), "--event", event(document)]) == 0
    assert f"doesn't match: {found}" in capsys.readouterr().out


def test_a_message_in_binary_mode_is_read_from_stdin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And shown as JSON."""
    headers = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "/a", "ce_type": "agency.updated"}
    message = {"topic": "agencies.events", "key": 7, "headers": headers, "value": {"agency_id": 12}}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(message).encode())))
    assert main(["triggers", "check", str(SMALL), "--event", "-", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (trigger,), (trial,) = document["triggers"], document["event"]
    assert trigger["debounce"] == {"quiet_for": "10s", "at_latest_after": "300s", "at_most_every": None}
    assert trial["matches"]
    assert trial["request"]["agency_id"] == 12


def test_json_names_the_next_ticks(capsys: pytest.CaptureFixture[str]) -> None:
    """Of each schedule, with the zone's offset."""
    assert main(["triggers", "check", str(FULL), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert "event" not in document
    nightly = document["triggers"][1]
    assert len(nightly["next"]) == 3
    assert all("T03:00:00+0" in tick for tick in nightly["next"])
    assert document["triggers"][0]["params"]["region"] == {"from": "data.region", "default": None}


def test_an_event_that_would_be_a_dead_letter_is_65(event: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """With the reason."""
    assert main(["triggers", "check", str(SMALL), "--event", event({**PAID, "type": "agency.updated"})]) == 65
    out, err = capsys.readouterr()
    assert "matches, but would be a dead letter" in out
    assert "The event has no data.agency_id" in err


@pytest.mark.parametrize(
    ("document", "code", "message"),
    [
        ("{", 65, "The example event isn't JSON"),
        ({"headers": [], "value": {}}, 0, ""),
        ({"headers": "x", "value": {}}, 65, "isn't a Kafka message"),
        ({"topic": 7, "value": {}}, 65, "isn't a Kafka message"),
        ({"key": "\ud800", "value": {}}, 65, "isn't Unicode"),
        ({"topic": "\ud800", "value": {}}, 65, "isn't Unicode"),
        ({"headers": {"x": None}, "value": {}}, 0, ""),
    ],
)
def test_an_example_that_is_no_event_is_told(
    event: Any, capsys: pytest.CaptureFixture[str], document: Any, code: int, message: str
) -> None:
    """Before it is tried."""
    assert main(["triggers", "check", str(SMALL), "--event", event(document)]) == code
    assert message in capsys.readouterr().err


def test_an_example_may_need_its_topic(tmp_path: Path, event: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """If a trigger of another topic can't use it. The message says so."""
    path = tmp_path / "triggers.yaml"
    path.write_text("triggers: [{topic: a, agency_id: data.id}, {topic: b, agency_id: data.agency.id}]")
    assert main(["triggers", "check", str(path), "--event", event({"id": 7})]) == 65
    assert "If it is of another topic than b, name that" in capsys.readouterr().err
    assert main(["triggers", "check", str(path), "--event", event({"topic": "a", "value": {"id": 7}})]) == 0


def test_a_path_that_may_be_meant_otherwise_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Paths of `body` begin within the body."""
    path = tmp_path / "triggers.yaml"
    path.write_text("triggers: [{topic: a, agency_id: data.id, match: {body: {data.status: final}}}]")
    assert main(["triggers", "check", str(path)]) == 0
    assert "or else write status" in capsys.readouterr().out


def test_an_example_that_isnt_there_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And so is one that isn't text."""
    assert main(["triggers", "check", str(SMALL), "--event", str(tmp_path / "nowhere")]) == 64
    (tmp_path / "e").write_bytes(b"\xff")
    assert main(["triggers", "check", str(SMALL), "--event", str(tmp_path / "e")]) == 64
    assert "isn't UTF-8" in capsys.readouterr().err


def test_a_file_of_schedules_matches_no_event(tmp_path: Path, event: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """And says so."""
    path = tmp_path / "triggers.yaml"
    path.write_text("triggers: [{schedule: {cron: 0 3 * * *, agencies: [1]}}]")
    assert main(["triggers", "check", str(path), "--event", event(PAID)]) == 0
    assert "no trigger has a topic" in capsys.readouterr().out


# -- servers -------------------------------------------------------------------------------------


def test_servers_are_asked_with_connect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What they answer is printed, and the gravest error gives the exit code."""

    async def check_triggers(_settings: object, _triggers: object, *, agency_key: object) -> AsyncIterator[CheckResult]:
        yield CheckResult("topic", ok=False, detail="topic_missing", error=TopicMissing(["billing.events"]))
        yield CheckResult("agencies", ok=True, detail="nightly: the query returns 3 agencies")

    module = types.ModuleType("pipeline_processing.app.checks")
    module.check_triggers = check_triggers  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pipeline_processing.app.checks", module)

    assert main(["triggers", "check", str(FULL), "--connect"]) == 78
    out, err = capsys.readouterr()
    assert "topic     failed  topic_missing" in out
    assert "agencies  ok  nightly: the query returns 3 agencies" in out
    assert "Kafka has no topic billing.events" in err

    assert main(["triggers", "check", str(FULL), "--connect", "--json"]) == 78
    servers = json.loads(capsys.readouterr().out)["servers"]
    assert [each["ok"] for each in servers] == [False, True]
