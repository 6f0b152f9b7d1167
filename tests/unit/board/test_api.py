"""The endpoints: what they answer, how wrong questions are told, and that no secret and no row gets out."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator

from pipeline_processing.board.api import ENDPOINTS
from pipeline_processing.board.openapi import document
from pipeline_processing.board.parameters import cursor_of
from pipeline_processing.errors import InvalidRequest
from pipeline_processing.messaging.dead_letters import dead_letter
from pipeline_processing.messaging.port import Record
from pipeline_processing.model import RunFailure, RunState
from pipeline_processing.runs.board_reads import FailureGroup, Typical
from pipeline_processing.runs.run_filter import RunFilter, RunPlace
from tests.unit.board.asking import ask
from tests.unit.board.conftest import NAMES, Parts
from tests.unit.board.history import TRACE_ID, at, run
from tests.unit.virtual_clock import in_virtual_time


async def get(parts: Parts, path: str) -> Any:
    answer = await ask(parts.app(), f"/api/v1{path}")
    assert answer.status == 200, answer.body
    assert answer.headers["cache-control"] == "no-store"
    return answer.json


@in_virtual_time
async def test_the_overview(parts: Parts) -> None:
    """Counts by state, what waits longest, and what isn't sent yet."""
    parts.history.put(run("a"), run("b", "running"), run("c", "failed"), run("d", attempt=1))

    overview = await get(parts, "/overview")

    assert overview["states"] == {"queued": 2, "running": 1, "prepared": 0}
    assert overview["finished_last_hour"] == {"succeeded": 0, "failed": 1, "cancelled": 0}
    assert (overview["retrying"], overview["agencies_waiting"], overview["outbox_unsent"]) == (1, 1, 1)
    waiting = {"run_id": "a", "agency_id": "7", "queued_at": "2026-01-18T12:00:00Z", "seconds": 0.0}
    assert overview["oldest_waiting"] == waiting
    assert overview["oldest_unsent_seconds"] == 5
    assert (overview["history"], overview["lag"]) == ("ok", None)  # Kafka has yet to answer


@in_virtual_time
async def test_a_list_of_runs(parts: Parts) -> None:
    """Ids are text, times are UTC, messages are short, and a cursor leads to the next page."""
    parts.history.put(*(run(f"r{n}", "failed", agency_id=2**63 - 1) for n in range(3)))
    error = RunFailure(kind="step_failed", message="x" * 5000, retryable=False, exit_code=1)
    parts.history.put(run("r1", "failed", error=error, labels={"team": "tops3cret"}, request={"priority": 3}))

    page = await get(parts, "/runs?limit=2")

    assert [each["run_id"] for each in page["runs"]] == ["r2", "r1"]
    assert page["next_cursor"] == cursor_of(RunPlace(at(0), "r1"))
    second, first = page["runs"]
    assert (second["agency_id"], second["queued_at"]) == (str(2**63 - 1), "2026-01-18T12:00:00Z")
    assert len(first["error_message"]) == 301
    assert (first["priority"], first["labels"]) == (3, {"team": "***"})
    assert (await get(parts, "/runs?limit=3"))["next_cursor"] is None


@in_virtual_time
async def test_filters_reach_the_history(parts: Parts) -> None:
    """With all their values."""
    cursor = cursor_of(RunPlace(at(9), "r 1"))
    await get(
        parts,
        "/runs?state=failed&agency_id=7&label=team=a%3Db&label=x=&error_kind=step_failed&q=run-1&limit=9"
        f"&since=2026-01-18T12:00:00Z&until=2026-01-19T12:00:00%2B01:00&cursor={cursor}",
    )
    (wanted,) = parts.history.asked
    assert wanted == RunFilter(
        states=(RunState.FAILED,),
        agency_id=7,
        labels={"team": "a=b", "x": ""},
        error_kinds=("step_failed",),
        text="run-1",
        since=at(0),
        until=at(23 * 3600),
        after=RunPlace(at(9), "r 1"),
    )


@in_virtual_time
async def test_a_number_is_part_of_a_run_id_or_an_agency(parts: Parts) -> None:
    """The runs of both searches, each once, newest first."""
    parts.history.put(run("run-12", agency_id=1), run("r", agency_id=12, queued_at=at(1)), run("x12", agency_id=12))

    assert [each["run_id"] for each in (await get(parts, "/runs?q=12"))["runs"]] == ["r", "x12", "run-12"]
    assert [each["run_id"] for each in (await get(parts, "/runs?q=12&limit=2"))["runs"]] == ["r", "x12"]
    assert [each["run_id"] for each in (await get(parts, "/runs?q=12&agency_id=1"))["runs"]] == ["run-12"]
    assert (await get(parts, f"/runs?q={'9' * 30}"))["runs"] == []


@pytest.mark.parametrize(
    ("query", "parameter", "message"),
    [
        (
            "state=lost",
            "state",
            "input should be 'queued', 'running', 'prepared', 'succeeded', 'failed' or 'cancelled'",
        ),
        ("agency_id=x", "agency_id", "valid integer"),
        ("agency_id=0", "agency_id", "greater than or equal to 1"),
        ("label=team", "label", "must be KEY=VALUE, such as team=billing"),
        ("label=a=1&label=a=2", "label", "each key may have one value"),
        ("since=yesterday", "since", "must be a time with its zone, such as 2026-01-18T10:00:00Z"),
        ("limit=201", "limit", "less than or equal to 200"),
        ("limit=1&limit=2", "limit", "is given more than once"),
        ("cursor=eA==", "cursor", "pass `next_cursor` of the page before"),
        ("cursor=ä", "cursor", "pass `next_cursor` of the page before"),
        ("q=a%00b", "q", "pattern"),
        ("colour=red", "colour", "the parameters are state, agency_id, label"),
    ],
)
async def test_wrong_parameters_are_told(parts: Parts, query: str, parameter: str, message: str) -> None:
    """As a problem with the cause and the valid values. The history isn't asked."""
    answer = await ask(parts.app(), f"/api/v1/runs?{query}")

    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    (fault,) = answer.json["faults"]
    assert fault["parameter"] == parameter
    assert message in fault["message"]
    assert answer.json["detail"] == f"{parameter}: {fault['message']}"
    assert parts.history.calls == []


@in_virtual_time
async def test_a_run_in_full(parts: Parts) -> None:
    """With everything that is stored about it, and without secrets."""
    details = {
        "timings": {"source": 12.5, "odd": "x"},
        "manifest_url": "s3://me:tops3cret@exports/m",
        "requested_by": "cron with tops3cret",
    }
    parts.history.put(run("r", "succeeded", request={"params": {"password": "x", "region": "n"}}, **details))

    found = await get(parts, "/runs/r")

    assert found["request"] == {"agency_id": 7, "params": {"password": "***", "region": "n"}}
    assert found["timings"] == [{"stage": "source", "milliseconds": 12.5}]
    assert found["requested_by"] == "cron with ***"
    assert found["manifest_url"] == "s3://me:***@exports/m"
    assert found["attempts"][0]["trace_url"] == found["trace_url"] == f"https://traces/{TRACE_ID}"
    assert found["artifacts"][0]["destination"] == "s3://key:***@exports"
    assert found["artifacts"][0]["bytes"] == 30
    assert found["datasets"][0]["rows_read"] == 2
    assert found["events"][0]["sent"] is False
    assert found["deliveries"][0]["last_error"] == "the server said password=***"
    assert [each["run_id"] for each in found["replays"]] == ["replay"]
    assert found["replay_command"] == "pipeline-processing replay --run-id r"


@pytest.mark.parametrize("run_id", ["none", "a%00b", "%3Cscript%3E", "password=tops3cret"])
async def test_an_unknown_run(parts: Parts, run_id: str) -> None:
    answer = await ask(parts.app(), f"/api/v1/runs/{run_id}")
    assert (answer.status, answer.json["title"]) == (404, "Unknown run")
    assert "tops3cret" not in answer.body.decode()


@in_virtual_time
async def test_an_estimate_comes_from_the_last_runs(parts: Parts) -> None:
    """By the median duration, until progress tells how fast the run is."""
    parts.history.put(run("r", "running"))
    parts.history.typical_of[7] = Typical(runs=9, duration_ms=60_000, rows_read=1000)

    page = await get(parts, "/runs")

    assert page["runs"][0]["estimate"] == {"finishes_at": "2026-01-18T12:01:01Z", "from_runs": 9}
    assert page["runs"][0]["lease_seconds_left"] == 31


@in_virtual_time
async def test_an_end_beyond_the_calendar_is_not_estimated(parts: Parts) -> None:
    parts.history.put(run("r", "running", started_at=datetime(9999, 12, 31, tzinfo=UTC)))
    parts.history.typical_of[7] = Typical(runs=9, duration_ms=48 * 3600_000, rows_read=1000)

    assert (await get(parts, "/runs"))["runs"][0]["estimate"] is None


@in_virtual_time
async def test_durations(parts: Parts) -> None:
    """Of one agency, or of several in their order. One without runs has an empty list."""
    one = await get(parts, "/agencies/7/runs/durations")
    several = await get(parts, "/durations?agency_id=100,%207")

    assert one["runs"][0] == {
        "run_id": "r",
        "finished_at": "2026-01-18T12:00:05Z",
        "duration_ms": 4000,
        "state": "succeeded",
    }
    assert several["agencies"] == [{"agency_id": "100", "runs": []}, one]
    for path in ("/agencies/x/runs/durations", "/agencies/1/2/runs/durations", "/durations", "/durations?agency_id=1,"):
        assert (await ask(parts.app(), f"/api/v1{path}")).status == 400


@in_virtual_time
async def test_failures_come_with_a_command(parts: Parts) -> None:
    """Which shows what a replay would request."""
    (group,) = (await get(parts, "/failures?window=1h"))["groups"]

    assert group["command"] == "pipeline-processing replay --failed --since 2026-01-18T11:00:00Z"
    assert group["last_message"] == "password=***"
    assert (group["description"], group["docs"]) == ("A step raised.", "docs/errors.md#step_failed")


def test_a_command_is_as_narrow_as_possible(parts: Parts) -> None:
    """One run by its id, one agency's by its id."""
    group = parts.api._views.failures
    many = FailureGroup(
        error_kind="k",
        count=2,
        replayed=0,
        agencies=1,
        agency_ids=[7],
        run_ids=["q", "r"],
        last_message="m",
        last_at=at(0),
    )
    one = replace(many, count=1, run_ids=["r"])
    commands = [each.command for each in group([many, one], window="1h", since=at(0)).groups]
    assert commands == [
        "pipeline-processing replay --failed --agency-id 7 --since 2026-01-18T12:00:00Z",
        "pipeline-processing replay --run-id r",
    ]


@in_virtual_time
async def test_dead_letters_show_no_request(parts: Parts) -> None:
    """Only the reason, the time and the place."""
    record = Record("requests", 3, 77, 0, key=b"k3y", value=b"v4lue", headers=(("name", b"h3ader"),))
    letter = dead_letter(
        record,
        InvalidRequest("agency_id: missing; tops3cret"),
        topic=NAMES.dead_letters_topic,
        now=at(0),
        mask=parts.mask,
    )
    stored = parts.broker.put(letter)

    answer = await ask(parts.app(), "/api/v1/dead-letters")

    (shown,) = answer.json["dead_letters"]
    assert shown["command"] == f"pipeline-processing dead-letters show {stored.partition}:{stored.offset}"
    assert (shown["reason"], shown["topic"], shown["partition"], shown["offset"]) == (
        "invalid_request",
        "requests",
        3,
        77,
    )
    for hidden in (b"k3y", b"v4lue", b"h3ader", b"tops3cret"):
        assert hidden not in answer.body


@in_virtual_time
async def test_without_the_topic_there_are_no_dead_letters(parts: Parts) -> None:
    parts.broker.delete(NAMES.dead_letters_topic)
    assert await get(parts, "/dead-letters") == {"dead_letters": []}


@in_virtual_time
async def test_a_server_that_is_away_is_a_problem(parts: Parts) -> None:
    """503, without the password in its message. The next answer is a new one."""
    parts.history.away, parts.broker.outage = True, True
    for path, title in (("/runs", "The history can't be used"), ("/dead-letters", "Kafka can't be used")):
        answer = await ask(parts.app(), f"/api/v1{path}")
        assert (answer.status, answer.json["title"]) == (503, title)
        assert answer.headers["retry-after"] == "2"
        assert "secret" not in answer.json["detail"]
    parts.history.away = False
    await get(parts, "/runs")


@in_virtual_time
async def test_pages_share_an_answer(parts: Parts) -> None:
    """Many pages that ask at once cost one query; another filter costs its own."""
    parts.history.put(run("r"))
    await asyncio.gather(*(get(parts, "/runs") for _ in range(20)), *(get(parts, "/runs?limit=1") for _ in range(20)))
    assert parts.history.calls.count("newest") == 2
    await asyncio.sleep(1.1)
    await get(parts, "/runs")
    assert parts.history.calls.count("newest") == 3


async def test_answers_are_as_described(parts: Parts) -> None:
    """Every endpoint's answer is valid by the OpenAPI document."""
    parts.history.put(run("r", "running"), run("s", "failed"), run("t"))
    described = document()
    paths = {each.path: each.path for each in ENDPOINTS} | {
        "/runs/{run_id}": "/runs/s",
        "/agencies/{agency_id}/runs/durations": "/agencies/7/runs/durations",
        "/durations": "/durations?agency_id=7",
    }
    for path, asked in paths.items():
        schema = described["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        Draft202012Validator(schema | {"components": described["components"]}).validate(await get(parts, asked))
    problem = described["components"]["schemas"]["Problem"] | {"components": described["components"]}
    Draft202012Validator(problem).validate((await ask(parts.app(), "/api/v1/runs?limit=x")).json)
