"""`workers` and `queue`: what they print of what they find."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline_processing.cli import queue as queue_command
from pipeline_processing.cli import workers as workers_command
from pipeline_processing.cli.main import main
from pipeline_processing.messaging.port import Member
from pipeline_processing.requests.workers import workers_of
from pipeline_processing.runs.queue_reads import AgencyQueue, Waiting
from tests.unit.terminal.test_queue import run

Captured = pytest.CaptureFixture[str]

NOW = datetime(2026, 1, 18, 10, tzinfo=UTC)
MEMBER = Member(worker="host-1:20:aa", host="10.0.0.1", partitions=(0, 2))


def found(monkeypatch: pytest.MonkeyPatch, *, members: tuple[Member, ...] = (), problem: str | None = None) -> None:
    """Have `workers` find these members, with three requests unread in each partition."""

    async def _found(_: object) -> Any:
        return workers_of(members, {0: 3, 1: 3, 2: 3}, [], now=NOW), NOW, 9 if members else 0, problem

    monkeypatch.setattr(workers_command, "_found", _found)
    monkeypatch.setattr(workers_command, "log_to_stderr", lambda **_: None)  # other tests read the logs


def test_workers_are_listed_with_their_lag(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """In a table and as objects; unread requests are told beside the table."""
    found(monkeypatch, members=(MEMBER,))

    assert main(["workers"]) == 0
    said = capsys.readouterr()
    assert "host-1:20:aa" in said.out
    assert "9 requests in agency-jobs.requests yet to be accepted." in said.err

    assert main(["workers", "--json"]) == 0
    [worker] = map(json.loads, capsys.readouterr().out.splitlines())
    assert (worker["worker"], worker["state"], worker["lag"]) == ("host-1:20:aa", "idle", 6)


def test_without_any_worker_or_answer_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """The remedy for the one, the reason of the other."""
    found(monkeypatch)
    assert main(["workers"]) == 0
    assert "Start one with `pipeline-processing serve`" in capsys.readouterr().err

    found(monkeypatch, problem="Kafka doesn't answer.")
    assert main(["workers"]) == 0
    assert "Only workers that hold a run are shown. Kafka doesn't answer." in capsys.readouterr().err


def test_the_queue_is_told_in_counts_and_places(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """More than the limit is said to be there."""
    since = NOW - timedelta(minutes=1)
    agency = AgencyQueue(agency_id=7, due=2, later=0, running=1, prepared=0, waiting_since=since)
    waiting = Waiting(run=run(), now=NOW, place=1, behind=None, held=(), last_error=None)

    async def read(*_: object, **__: object) -> Any:
        return NOW, [agency], [waiting]

    monkeypatch.setattr(queue_command, "_read", read)

    assert main(["queue", "--limit", "1"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("2 due, 1 running\n")
    assert "for a free worker" in said.out
    assert "There are more" in said.err

    assert main(["queue", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["states"] == {"due": 2, "later": 0, "running": 1, "prepared": 0}
    assert shown["agencies"][0]["waiting_since"] == "2026-01-18T09:59:00Z"
    assert [each["run_id"] for each in shown["waiting"]] == ["r"]
