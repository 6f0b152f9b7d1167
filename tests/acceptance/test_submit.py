"""`submit`: requests by hand, followed to their end, and left alone when whoever follows them goes."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from pipeline_processing.embedded.kafka import KafkaServer
from tests.acceptance.gate import Gate
from tests.acceptance.kafka_side import Message, Messages
from tests.acceptance.published_messages import valid_as
from tests.acceptance.service import (
    HUGE,
    NOBODY,
    OTHER,
    SMALL,
    NewService,
    Process,
    finished,
    message,
    one_dataset,
    published_in,
    valid,
)
from tests.acceptance.shared_serve import Shared, shared_serve
from tests.acceptance.warm import Forked
from tests.watching import eventually

SUBMIT = ("submit", "agency_data_job")
ROWS = (
    "SELECT n AS id, repeat('x', 16384) AS body, "
    "CASE WHEN NOT pg_try_advisory_xact_lock_shared($1::bigint) THEN pg_sleep(0.05)::text END AS pause "
    "FROM generate_series(1, CASE $1::bigint WHEN 4 THEN 800 WHEN 999 THEN 0 ELSE 12 END) AS n"
)
"""While its gate is closed a run of HUGE goes on slowly, a batch a second, for 40 s; once it is open it ends."""
assert (HUGE, NOBODY) == (4, 999)

STEPS = [{"select": ["id"]}, {"add": {"colour": "{colour}", "window": "{since} to {until}"}}]
JOB = one_dataset(ROWS, steps=STEPS, expect={"min_rows": 1}) | {"params": {"colour": {"type": "text", "default": None}}}

NOWHERE = "127.0.0.1:1"
"""Nothing listens there."""


@pytest.fixture(scope="module")
def shared(new_service: NewService, kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """A `serve` whose job fails for agencies without rows."""
    with (
        new_service(tmp_path_factory.mktemp("submit")) as service,
        shared_serve(service, kafka, job=JOB) as opened,
    ):
        yield opened


def submit(shared: Shared, *options: object, **others: Any) -> subprocess.CompletedProcess[str]:
    """`submit agency_data_job …`."""
    return shared.service.cli(*SUBMIT, *options, **others)


def printed_run_ids(done: subprocess.CompletedProcess[str]) -> list[str]:
    """All that is on stdout."""
    return done.stdout.splitlines()


def requests_of(messages: Messages, run_ids: list[str]) -> dict[str, Message]:
    """What was sent for these runs, which is one message each, as published."""
    found: dict[str, Message] = {}
    for each in messages.all_of(messages.requests_topic):
        if (run_id := json.loads(each.value or b"{}").get("run_id")) in run_ids:
            assert run_id not in found
            found[run_id] = each
            valid("job-request", each.json)
            valid_as("jobRequest", each)
            assert each.key == str(each.json["agency_id"]).encode()
    return found


def new_id(what: str) -> str:
    """A run id that nobody else has."""
    return f"{what}-{uuid4().hex[:8]}"


def lines_with(run_id: str, done: subprocess.CompletedProcess[str]) -> list[str]:
    """What stderr says of a run."""
    return [line for line in done.stderr.splitlines() if line.startswith(f"{run_id}: ")]


# -- sending ---------------------------------------------------------------------------------------------


def test_many_agencies(shared: Shared) -> None:
    """A run id a line and nothing else on stdout, in the order of the agencies; a request and a run for each."""
    done = submit(shared, "--agency-id", SMALL, "--agency-id", OTHER, "--agency-id", NOBODY)

    assert done.returncode == 0, done.stderr
    run_ids = printed_run_ids(done)
    sent = requests_of(shared.messages, run_ids)
    assert [sent[run_id].json["agency_id"] for run_id in run_ids] == [SMALL, OTHER, NOBODY]
    events = [shared.wait_for_event(run_id).json for run_id in run_ids]
    assert [event["state"] for event in events] == ["succeeded", "succeeded", "failed"]
    traces = [(sent[run_id].header("traceparent") or "").split("-")[1] for run_id in run_ids]
    assert [event["trace_id"] for event in events] == traces
    assert len(set(traces)) == 3
    published_in(shared.service, run_ids[0], SMALL)


def test_every_option(shared: Shared) -> None:
    """What the options say is what the request says, and no more."""
    run_id = new_id("full")
    options = {
        "--agency-id": "1",
        "--run-id": run_id,
        "--dataset": "records",
        "--format": "csv",
        "--since": "2026-01-01T00:00:00Z",
        "--until": "2026-02-01T00:00:00Z",
        "--param": "colour=red",
        "--priority": "4",
        "--deadline": (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds"),
        "--not-before": "2026-01-01T00:00:00Z",
        "--requested-by": "me",
        "--label": "team=billing",
    }

    done = submit(shared, "--dry-run", *[part for option in options.items() for part in option])

    assert (done.returncode, done.stdout) == (0, f"{run_id}\n"), done.stderr
    request = requests_of(shared.messages, [run_id])[run_id].json
    assert datetime.fromisoformat(request.pop("deadline")) == datetime.fromisoformat(options["--deadline"])
    assert request == {
        "agency_id": SMALL,
        "run_id": run_id,
        "datasets": ["records"],
        "params": {"colour": "red"},
        "since": "2026-01-01T00:00:00Z",
        "until": "2026-02-01T00:00:00Z",
        "format": "csv",
        "dry_run": True,
        "requested_by": "me",
        "labels": {"team": "billing"},
        "priority": 4,
        "not_before": "2026-01-01T00:00:00Z",
    }
    assert shared.wait_for_event(run_id).json["dry_run"] is True


def test_a_file(shared: Shared) -> None:
    """Its requests in their order, with their own run ids or new ones; blank lines say nothing."""
    path, named = shared.service.folder / "requests.ndjson", new_id("filed")
    path.write_text(
        f'{{"agency_id": {SMALL}, "run_id": "{named}"}}\n\n  \n{{"agency_id": {OTHER}, "dry_run": true}}\n'
        f'{{"agency_id": {SMALL}, "run_id": "{named}"}}'
    )

    done = submit(shared, "--file", path)

    assert done.returncode == 0, done.stderr
    first, second, third = printed_run_ids(done)
    assert first == third == named
    assert shared.wait_for_event(second).json["agency_id"] == OTHER
    assert shared.wait_for_event(named).json["state"] == "succeeded"
    assert shared.service.outcomes(named) == ["succeeded"]


def test_a_file_with_bad_lines(shared: Shared) -> None:
    """65, every bad line is named, and none of the good ones is sent."""
    path = shared.service.folder / "bad.ndjson"
    path.write_text(
        f'{{"agency_id": {SMALL}}}\n{{"agency_id": 0}}\n{{"agency_id": {SMALL}}}\n{{"agency_id": 1, "colour": "red"}}\n'
        '{"agency_id": 1, "job": "other_job"}\nnonsense\n'
    )
    ends = shared.messages.ends()

    done = submit(shared, "--file", path)

    assert (done.returncode, done.stdout) == (65, "")
    said = message(done)
    assert str(path) in said
    for line, fault in ((2, "agency_id"), (4, "colour"), (5, "other_job"), (6, "JSON")):
        (told,) = [each for each in said.splitlines() if each.strip().startswith(f"line {line}:")]
        assert fault in told
    assert "line 1:" not in said
    assert "line 3:" not in said
    assert shared.messages.ends() == ends


def test_wrong_requests(shared: Shared) -> None:
    """Nothing is sent: 65 for what isn't a request, 64 for what isn't a command line."""
    ends = shared.messages.ends()
    for code, says, options in (
        (65, "agency_id 0", ("--agency-id", 0, "--agency-id", 1)),
        (65, "deadline", ("--agency-id", 1, "--deadline", "tomorrow")),
        (65, "run_id", ("--agency-id", 1, "--run-id", "no spaces")),
        (65, "params.color: isn't declared", ("--agency-id", 1, "--param", "color=red")),
        (65, "no dataset 'invoices'", ("--agency-id", 1, "--dataset", "invoices")),
        (64, "--agency-id", ()),
        (64, "--run-id", ("--agency-id", 1, "--agency-id", 2, "--run-id", "x")),
        (64, "--file", ("--agency-id", 1, "--file", "x.ndjson")),
        (64, "no-such.ndjson", ("--file", "no-such.ndjson")),
    ):
        done = submit(shared, *options)
        assert (done.returncode, done.stdout) == (code, ""), (options, done.stderr)
        assert says in message(done)
    assert shared.messages.ends() == ends


# -- following -------------------------------------------------------------------------------------------


def test_following_to_a_success(shared: Shared) -> None:
    """0, the run ids on stdout, and on stderr where the manifest is."""
    done = submit(shared, "--agency-id", SMALL, "--agency-id", OTHER, "--follow")

    assert done.returncode == 0, done.stderr
    for run_id, agency_id in zip(printed_run_ids(done), (SMALL, OTHER), strict=True):
        assert shared.service.state(run_id) == "succeeded"
        (line,) = lines_with(run_id, done)[-1:]
        assert "succeeded" in line
        assert f"{shared.service.destination}/agency_id={agency_id}/run_id={run_id}/_manifest.json" in line


def test_following_to_the_worst_run(shared: Shared) -> None:
    """The exit code is that of the worst run; each end is told, with its reason."""
    done = submit(shared, "--agency-id", SMALL, "--agency-id", NOBODY, "--agency-id", OTHER, "--follow")

    assert done.returncode == 1, done.stderr
    _, failed, _ = printed_run_ids(done)
    assert "expectation_failed" in lines_with(failed, done)[-1]
    assert sum("succeeded" in line for line in done.stderr.splitlines()) == 2

    late = submit(shared, "--agency-id", SMALL, "--deadline", "2020-01-01T00:00:00Z", "--follow")
    assert late.returncode == 75, late.stderr


def test_following_a_request_that_is_refused(shared: Shared) -> None:
    """A dead letter ends the following, with 65; so does one among others that succeed."""
    # Without a job config, only a worker can tell.
    options = ("--agency-id", SMALL, "--dataset", "invoices", "--follow")
    done = submit(shared, *options, env={"PIPELINE_JOB_CONFIG_FILE": None})

    assert done.returncode == 65, done.stderr
    (run_id,) = printed_run_ids(done)
    assert "unknown_dataset" in lines_with(run_id, done)[-1]
    assert shared.service.state(run_id) is None

    taken, other = new_id("taken"), new_id("other")
    shared.messages.send({"agency_id": OTHER, "run_id": taken})
    shared.wait_for_event(taken)
    path = shared.service.folder / "mixed.ndjson"
    path.write_text(f'{{"agency_id": 1, "run_id": "{taken}"}}\n{{"agency_id": 1, "run_id": "{other}"}}\n')

    done = submit(shared, "--file", path, "--follow")

    assert done.returncode == 65, done.stderr
    assert "conflicting_request" in lines_with(taken, done)[-1]
    assert "succeeded" in lines_with(other, done)[-1]


def test_following_what_has_finished(shared: Shared) -> None:
    """The same request again: its event comes again, and its end is told at once."""
    run_id = new_id("again")
    first = submit(shared, "--agency-id", NOBODY, "--run-id", run_id, "--follow")
    done = submit(shared, "--agency-id", NOBODY, "--run-id", run_id, "--follow")

    assert (first.returncode, done.returncode) == (1, 1), done.stderr
    assert lines_with(run_id, done)[-1] == lines_with(run_id, first)[-1]
    assert shared.service.outcomes(run_id) == ["failed"]


def test_following_a_cancelled_run(shared: Shared) -> None:
    """79, as soon as somebody cancels it."""
    run_id = new_id("cancelled")
    with Gate(shared.service, HUGE):
        process = following(shared, run_id)
        assert shared.service.cli("cancel", run_id).returncode == 0
        done = finished(process)

    assert done.returncode == 79, done.stderr
    assert "cancelled" in lines_with(run_id, done)[-1]


def following(shared: Shared, run_id: str) -> Process:
    """Somebody who follows a run of HUGE, which is in the middle, and has been told so."""
    process = shared.service.start(*SUBMIT, "--agency-id", HUGE, "--run-id", run_id, "--follow")
    assert isinstance(process, Forked)
    eventually(lambda: f"{run_id}: records: " in process.stderr_so_far())
    assert shared.service.state(run_id) == "running"
    return process


def test_progress(shared: Shared) -> None:
    """While a run goes on, stderr says how far it is; stdout has nothing but its id. Whoever watches sees it, too."""
    run_id = new_id("slow")
    with Gate(shared.service, HUGE) as gate:
        process = following(shared, run_id)
        assert process.poll() is None
        watcher = shared.service.start("history", "--watch", "--search", run_id)
        assert isinstance(watcher, Forked)
        eventually(lambda: "running, attempt 1" in watcher.stdout_so_far())
        gate.open()
        done = finished(process)
    eventually(lambda: "succeeded, 800 rows" in watcher.stdout_so_far())
    watcher.send_signal(signal.SIGINT)
    watched = finished(watcher)

    assert (done.returncode, done.stdout) == (0, f"{run_id}\n"), done.stderr
    first, *_, last = lines_with(run_id, done)
    assert "rows read" in first
    assert "succeeded, 800 rows" in last
    assert (watched.returncode, watched.stderr) == (130, "")
    assert len(watched.stdout.splitlines()) == 2


def test_who_works_and_why_a_run_waits(shared: Shared) -> None:
    """While a run of the same agency is at work; whoever follows the one that waits sees both, and its end."""
    first, second = new_id("first"), new_id("second")
    unknown = shared.service.start("follow", "no-such-run")
    with Gate(shared.service, HUGE) as gate:
        following(shared, first).send_signal(signal.SIGINT)
        assert submit(shared, "--agency-id", HUGE, "--run-id", second).returncode == 0
        eventually(lambda: shared.service.state(second) == "queued")

        (worker,) = (json.loads(line) for line in shared.service.cli("workers", "--json").stdout.splitlines())
        queue = json.loads(shared.service.cli("queue", "--agency-id", HUGE, "-o", "json").stdout)
        shown = shared.service.cli("queue").stdout
        follower = shared.service.start("follow", second, first, "--json")
        assert isinstance(follower, Forked)
        eventually(lambda: f"{second} waits for its agency's turn: {first} is at work" in follower.stderr_so_far())
        gate.open()
        done = finished(follower)

    assert (worker["state"], worker["listens"], len(worker["partitions"])) == ("working", True, 3)
    assert [run["run_id"] for run in worker["runs"]] == [first]
    assert queue["states"] == {"due": 1, "later": 0, "running": 1, "prepared": 0}
    assert [(each["run_id"], each["place"], each["reason"]) for each in queue["waiting"]] == [(second, 1, "agency")]
    assert f"for its agency's turn: {first} is at work" in shown
    assert done.returncode == 0, done.stderr
    assert "succeeded, 800 rows" in lines_with(second, done)[-1]
    assert {json.loads(line)["run_id"] for line in done.stdout.splitlines()} == {first, second}
    refused = finished(unknown)
    assert (refused.returncode, refused.stdout) == (65, "")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_goes_leaves_the_run_alone(shared: Shared, sent: signal.Signals, code: int) -> None:
    """The signal's exit code, promptly, and how to see what becomes of the run, which goes on to its end."""
    run_id = new_id("left")
    with Gate(shared.service, HUGE) as gate:
        process = following(shared, run_id)

        process.send_signal(sent)

        asked_at = time.monotonic()
        done = finished(process)
        assert time.monotonic() - asked_at < 10
        assert shared.service.state(run_id) == "running"
        gate.open()
        assert shared.wait_for_event(run_id).json["state"] == "succeeded"

    assert (done.returncode, done.stdout) == (code, f"{run_id}\n"), done.stderr
    assert "Traceback" not in done.stderr
    assert f"pipeline-processing history --run-id {run_id}" in done.stderr
    assert shared.service.outcomes(run_id) == ["succeeded"]


# -- Kafka is away ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("follow", [(), ("--follow",)], ids=["", "follow"])
def test_kafka_is_away(shared: Shared, follow: tuple[str, ...]) -> None:
    """69 after a few seconds, one message that names the server, no run id."""
    asked_at = time.monotonic()

    done = submit(shared, "--agency-id", SMALL, *follow, env={"PIPELINE_KAFKA__BOOTSTRAP_SERVERS": NOWHERE})

    assert (done.returncode, done.stdout) == (69, ""), done.stderr
    assert NOWHERE in message(done)
    assert time.monotonic() - asked_at < 20
