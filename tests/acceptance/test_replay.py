"""Past requests, replayed: what is printed is what happens, also the second time, and nothing happens unasked."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline_processing.embedded.kafka import KafkaServer
from tests.acceptance.kafka_side import Message
from tests.acceptance.service import LARGE, NOBODY, OTHER, SMALL, NewService, message, one_dataset, published_in
from tests.acceptance.shared_serve import Shared, shared_serve
from tests.watching import eventually

RECORDS = "SELECT id, name FROM records WHERE agency_id = $1 ORDER BY id"
AGENCIES = (SMALL, OTHER, LARGE, SMALL, NOBODY, SMALL, OTHER, SMALL, OTHER, LARGE)
"""Whose turn it is: the runs of one in ten fail."""


@dataclass(frozen=True)
class Asked:
    """A request as it was sent, and where it stands."""

    run_id: str
    agency_id: int
    request: dict[str, Any]
    place: tuple[int, int]
    timestamp_ms: int


@dataclass(frozen=True)
class Past(Shared):
    """A `serve`, and 100 requests that it has done."""

    asked: list[Asked]
    first: int
    last: int
    """Those in between have times of their own: neither of those before nor of those after."""


@pytest.fixture(scope="module")
def past(new_service: NewService, kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    """One in ten of the 100 is more than a dry run; some have names and some have not; there are others beside them."""
    job = one_dataset(RECORDS, steps=[{"add": {"n": "{n}"}}], expect={"min_rows": 1})
    job["params"] = {"n": {"type": "integer", "default": None}}
    with (
        new_service(tmp_path_factory.mktemp("replay")) as service,
        shared_serve(service, kafka, job=job, env={"PIPELINE_WORKER__MAX_RUNS_PER_AGENCY": "4"}) as shared,
    ):
        asked: list[Asked] = []
        for numbers in (range(10), range(10, 90), range(90, 100)):
            asked += sent(shared, list(numbers))
            newest = max(each.timestamp_ms for each in asked)
            eventually(lambda newest=newest: time.time() * 1000 > newest + 1)
        duplicates = [each.request for each in asked if "run_id" in each.request][:5]
        shared.messages.send(*duplicates, b"nonsense", None, {"agency_id": 0})
        shared.settle(seconds=120)
        yield Past(service, shared.messages, shared.serve, asked, first=10, last=89)


def sent(shared: Shared, numbers: list[int]) -> list[Asked]:
    """The requests of these numbers, in their order."""
    deadline = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    requests: list[dict[str, Any]] = []
    for number in numbers:
        request: dict[str, Any] = {"agency_id": AGENCIES[number % 10], "dry_run": number % 10 != 0}
        if number % 3:
            request["run_id"] = f"asked-{number}"
        if number % 7 == 0:
            request |= {"deadline": deadline, "priority": 2, "requested_by": "somebody", "params": {"n": number}}
        requests.append(request)
    places = shared.messages.send(*requests)
    at = {(each.partition, each.offset): each for each in shared.messages.all_of(shared.messages.requests_topic)}
    return [
        Asked(
            request.get("run_id")
            or f"{at[place].topic}-{at[place].partition}-{at[place].offset}-{at[place].timestamp_ms}",
            request["agency_id"],
            request,
            place,
            at[place].timestamp_ms,
        )
        for request, place in zip(requests, places, strict=True)
    ]


def moment(milliseconds: int) -> str:
    """As the command line takes it."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()


# -- what every replay is held to ------------------------------------------------------------------------


def printed(past: Past, *options: object) -> list[dict[str, Any]]:
    """The plan that the command prints, by time; partitions of the topic have no order among each other."""
    done = past.service.cli("replay", "--json", *options)
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    return sorted(steps, key=lambda step: (step["requested_at"], step["run_id"]))


def all_runs(past: Past) -> dict[str, dict[str, Any]]:
    """Every row of the history, by run id."""
    return {row["run_id"]: row for row in past.service.sql("SELECT * FROM pipeline.runs")}


def all_events(past: Past) -> dict[str, list[Message]]:
    """The completion events so far, by run id."""
    events = defaultdict(list)
    for event in past.messages.completions():
        events[event.json["run_id"]].append(event)
    return events


def planned(past: Past, *options: object) -> list[dict[str, Any]]:
    """The plan, which is only printed: nothing is sent, and nothing is changed."""
    before = past.messages.ends(), past.service.tables()
    plan = printed(past, *options)
    assert (past.messages.ends(), past.service.tables()) == before
    return plan


def carried_out(past: Past, *options: object) -> list[dict[str, Any]]:
    """The plan, carried out: just what it says has happened."""
    plan = planned(past, *options)
    ends, before = past.messages.ends(), all_runs(past)
    assert [step["state"] for step in plan] == [before[step["run_id"]]["state"] for step in plan]

    assert printed(past, *options, "--execute") == plan

    past.settle(seconds=120)
    sends = [step for step in plan if step["sends"]]
    assert sum(past.messages.ends().values()) - sum(ends.values()) == len(sends)
    after, events = all_runs(past), all_events(past)
    new = {run_id: row for run_id, row in after.items() if run_id not in before}
    assert set(new) == {step["new_run_id"] for step in sends}
    for step in sends:
        old, run = before[step["run_id"]], new[step["new_run_id"]]
        assert step["outcome"] == f"new run {run['run_id']}"
        assert (run["replay_of"], run["agency_id"], run["state"]) == (old["run_id"], old["agency_id"], old["state"])
        changes = {"run_id": run["run_id"], "replay_of": old["run_id"], "deadline": None, "not_before": None}
        assert run["request"] == old["request"] | changes
        assert [event.json["replay_of"] for event in events[run["run_id"]]] == [old["run_id"]]
    assert {run_id: after[run_id] for run_id in before} == before, "the old runs stay as they are"
    return plan


def chosen(plan: list[dict[str, Any]]) -> list[str]:
    """The runs of a plan that it repeats, in its order."""
    return [step["run_id"] for step in plan if step["sends"]]


# -- selections ------------------------------------------------------------------------------------------


def test_by_time(past: Past) -> None:
    """Those asked for since then and before then, twice: each time new runs of the same old ones."""
    window = past.asked[past.first : past.last + 1]
    since = moment(min(each.timestamp_ms for each in window))
    until = moment(max(each.timestamp_ms for each in window) + 1)

    first = carried_out(past, "--since", since, "--until", until)
    second = carried_out(past, "--since", since, "--until", until)

    assert sorted(chosen(first)) == sorted(each.run_id for each in window)
    assert chosen(second) == chosen(first)
    assert {step["new_run_id"] for step in first} == {f"{each.run_id}.r1" for each in window}
    assert {step["new_run_id"] for step in second} == {f"{each.run_id}.r2" for each in window}


def test_since_without_end(past: Past) -> None:
    """All 100, told from duplicates, from messages that are no requests, and from replays, which aren't replayed."""
    plan = planned(past, "--since", moment(past.asked[0].timestamp_ms))

    asked = {each.run_id for each in past.asked}
    assert set(chosen(plan)) == asked
    assert len(chosen(plan)) == 100
    left_out = [step for step in plan if not step["sends"]]
    assert all("it is a replay of" in step["outcome"] for step in left_out)
    assert {step["run_id"] for step in left_out} == all_runs(past).keys() - asked
    done = past.service.cli("replay", "--since", "1h")
    assert "5 messages for a run that is listed already" in done.stdout
    assert "3 messages that can't be read as requests" in done.stdout
    assert f"100 requests to send, {len(left_out):,} left out." in done.stdout


def test_by_offset(past: Past) -> None:
    """Those of one partition from an offset on, twice."""
    offset = sorted(each.place[1] for each in past.asked if each.place[0] == 1)[5]
    expected = [each.run_id for each in past.asked if each.place[0] == 1 and each.place[1] >= offset]

    first = carried_out(past, "--offset", f"1:{offset}", "--until", moment(past.asked[-1].timestamp_ms + 1))
    second = carried_out(past, "--offset", f"1:{offset}", "--until", moment(past.asked[-1].timestamp_ms + 1))

    assert len(expected) > 20
    assert chosen(first) == chosen(second)
    assert set(chosen(first)) == set(expected)


def test_by_run_id(past: Past) -> None:
    """One run, twice; a published one is published again under its new id."""
    asked = past.asked[80]
    assert asked.request["dry_run"] is False

    (first,) = carried_out(past, "--run-id", asked.run_id)
    (second,) = carried_out(past, "--run-id", asked.run_id)
    (third,) = carried_out(past, "--run-id", first["new_run_id"])

    assert first["run_id"] == second["run_id"] == asked.run_id
    assert third["run_id"] == first["new_run_id"]
    for step in (first, second, third):
        published_in(past.service, step["new_run_id"], asked.agency_id)


def test_by_agency(past: Past) -> None:
    """All of an agency's runs but the replays among them, twice."""
    expected = {each.run_id for each in past.asked if each.agency_id == LARGE}

    first = carried_out(past, "--agency-id", LARGE)
    second = carried_out(past, "--agency-id", LARGE)

    assert len(expected) == 20
    assert set(chosen(first)) == set(chosen(second)) == expected
    assert {step["run_id"] for step in second} >= {step["new_run_id"] for step in first if step["sends"]}


def test_failed_ones(past: Past) -> None:
    """Once their cause is mended they succeed; then nothing is left to replay."""
    rows = all_runs(past)
    replayed = {row["replay_of"] for row in rows.values()}
    expected = {run_id for run_id, row in rows.items() if row["state"] == "failed" and run_id not in replayed}
    assert planned(past, "--failed", "--agency-id", SMALL) == []
    plan = planned(past, "--failed")
    past.service.sql("INSERT INTO records (id, agency_id, name) VALUES (1, $1, 'now there is one')", NOBODY)

    assert printed(past, "--failed", "--execute") == plan

    past.settle()
    assert set(chosen(plan)) == expected
    assert len(expected) >= 10
    assert {past.service.state(step["new_run_id"]) for step in plan} == {"succeeded"}
    again = past.service.cli("replay", "--failed", "--execute")
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "Nothing to do: no such requests.")


# -- the same run ----------------------------------------------------------------------------------------


def test_the_same_runs(past: Past) -> None:
    """No run is made and none does any work: all 100 send their events again, with the same id and content."""
    since, until = moment(past.asked[0].timestamp_ms), moment(past.asked[-1].timestamp_ms + 1)
    before, attempts = all_runs(past), past.service.sql("SELECT * FROM pipeline.run_attempts ORDER BY 1, 2")
    bucket, ends = past.service.objects(), past.messages.ends()
    events = all_events(past)

    plan = planned(past, "--since", since, "--until", until, "--same-run")
    for times in (1, 2):
        assert printed(past, "--since", since, "--until", until, "--same-run", "--execute") == plan
        past.settle(seconds=120)

        assert {step["outcome"] for step in plan} == {"sends its event again"}
        assert set(chosen(plan)) == {each.run_id for each in past.asked}
        assert sum(past.messages.ends().values()) - sum(ends.values()) == times * 100
        now = all_runs(past)
        assert [without_asked_again(now[run_id]) for run_id in before] == [
            without_asked_again(r) for r in before.values()
        ]
        assert now.keys() == before.keys()
        assert past.service.sql("SELECT * FROM pipeline.run_attempts ORDER BY 1, 2") == attempts
        assert past.service.objects() == bucket
        told = all_events(past)
        for each in past.asked:
            assert len(told[each.run_id]) == len(events[each.run_id]) + times
            assert len({(event.key, event.value, event.headers) for event in told[each.run_id]}) == 1


def without_asked_again(row: dict[str, Any]) -> dict[str, Any]:
    """A row without a column that is none of the contract's."""
    return {name: value for name, value in row.items() if name != "asked_again"}


def test_one_of_the_history_again(past: Past) -> None:
    """A run that the history names sends its event again, though nobody knows where its request stands."""
    asked = past.asked[3]
    before = past.messages.completions(asked.run_id)

    done = past.service.cli("replay", "--run-id", asked.run_id, "--same-run", "--execute")

    assert done.returncode == 0, done.stderr
    told = past.messages.wait_for_completions(len(before) + 1, run_id=asked.run_id)
    assert len({(each.key, each.value, each.headers) for each in told}) == 1


def test_what_the_history_has_lost(past: Past) -> None:
    """A request whose row is gone, as after a failover to a standby that lagged, becomes that very run again."""
    lost = [past.asked[1], past.asked[3]]  # a named one, and one that is named by its place
    assert ["run_id" in each.request for each in lost] == [True, False]
    for each in lost:
        for table in ("run_attempts", "outbox", "runs"):
            past.service.sql(f"DELETE FROM pipeline.{table} WHERE run_id = $1", each.run_id)
    since = moment(past.asked[0].timestamp_ms)
    others = all_runs(past)

    done = past.service.cli("replay", "--since", since, "--same-run", "--execute", "--json")

    plan = [json.loads(line) for line in done.stdout.splitlines()]
    new = [step for step in plan if step["state"] is None]
    assert {step["run_id"] for step in new} == {each.run_id for each in lost}
    assert {(step["outcome"], step["sends"]) for step in new} == {("a new run", True)}
    past.settle()
    assert all_runs(past).keys() == others.keys() | {each.run_id for each in lost}
    for each in lost:
        assert past.service.outcomes(each.run_id) == ["succeeded"]


# -- what isn't replayed ---------------------------------------------------------------------------------


def test_a_run_that_hasnt_finished(past: Past) -> None:
    """It is in the plan, and left out."""
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    past.messages.send({"agency_id": SMALL, "run_id": "unfinished-1", "not_before": later})
    eventually(lambda: past.service.state("unfinished-1"))
    ends = past.messages.ends()

    for options in ((), ("--same-run",)):
        (step,) = printed(past, "--run-id", "unfinished-1", "--execute", *options)
        assert (step["state"], step["sends"], step["new_run_id"]) == ("queued", False, None)

    assert past.messages.ends() == ends
    past.service.cli("cancel", "unfinished-1")


def test_wrong_selections(past: Past) -> None:
    """Nothing is sent: 65 for a run or a partition that isn't there, 64 for what can't be combined."""
    ends = past.messages.ends()
    for code, says, options in (
        (65, "no-such-run", ("--run-id", "no-such-run")),
        (65, "partition 77", ("--offset", "77:0")),
        (64, "--since", ()),
        (64, "only one", ("--run-id", "x", "--offset", "0:0")),
        (64, "--until", ("--since", "1h", "--until", "2h")),
    ):
        done = past.service.cli("replay", *options, "--execute")
        assert (done.returncode, done.stdout) == (code, ""), (options, done.stderr)
        assert says in message(done)
    assert past.messages.ends() == ends
