"""`submit` on Kafka in memory: run ids on stdout, all else on stderr, and the worst run's exit code."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import pty
import re
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from pipeline_processing.cli.main import main
from pipeline_processing.errors import ConflictingRequest
from pipeline_processing.messaging.dead_letters import dead_letter
from pipeline_processing.messaging.port import Member, Outgoing, Record
from pipeline_processing.model import JobRequest, RunFailure
from pipeline_processing.requests.job_messages import MAX_REQUEST_BYTES, received
from pipeline_processing.settings.settings import KafkaSettings, Settings
from pipeline_processing.telemetry.masking import Mask
from tests.memory.broker import MemoryBroker
from tests.unit.requests.test_following import completion, progress
from tests.unit.virtual_clock import EPOCH

TOPICS = KafkaSettings()
BROKEN = RunFailure(kind="query_failed", message="division\nby \x1b[31mzero", retryable=False, exit_code=1)
GONE = RunFailure(kind="source_unavailable", message="The server hung up.", retryable=True, exit_code=69)
ASK = ("submit", "agency_data_job")


class HurriedClock:
    """Time that passes where somebody would sleep."""

    elapsed = 0.0

    def now(self) -> Any:
        return EPOCH

    def monotonic(self) -> float:
        return self.elapsed

    async def sleep(self, seconds: float) -> None:
        self.elapsed += seconds
        await asyncio.sleep(0)


class Served(MemoryBroker):
    """Kafka with a worker behind it: each request that is sent has the end that `outcomes` says, at once."""

    def __init__(self) -> None:
        topics = (TOPICS.requests_topic, TOPICS.completions_topic, TOPICS.progress_topic, TOPICS.dead_letters_topic)
        super().__init__(clock=HurriedClock(), creates=topics)
        self.outcomes: dict[int, Callable[[Record], Outgoing]] = {}
        """By agency; a request without one goes on for ever."""
        self.workers = [Member("host:1", "127.0.0.1", (0,))]
        self.on_follow: Callable[[], object] = lambda: None
        self.requests: list[JobRequest] = []
        """What was sent, in order."""

    def put(self, message: Outgoing) -> Record:
        record = super().put(message)
        if message.topic == TOPICS.requests_topic:
            request = received(record).request
            self.requests.append(request)
            if request.agency_id in self.outcomes:
                self.put(self.outcomes[request.agency_id](record))
        return record

    async def members(self, topic: str) -> list[Member]:
        self.check(topic)
        return self.workers

    @asynccontextmanager
    async def following(self, topics: Sequence[str]) -> AsyncIterator[AsyncIterator[Record]]:
        async with super().following(topics) as records:
            self.on_follow()
            yield records


def announced(agency_id: int, **fields: Any) -> Callable[[Record], Outgoing]:
    """The run's completion."""

    def end(record: Record) -> Outgoing:
        done = completion(agency_id, run_id=received(record).run_id, **fields)
        return Outgoing(TOPICS.completions_topic, str(agency_id).encode(), done.model_dump_json().encode())

    return end


def refused(record: Record) -> Outgoing:
    return dead_letter(record, ConflictingRequest("x"), topic=TOPICS.dead_letters_topic, now=EPOCH, mask=Mask())


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Served:
    """The Kafka that the command finds."""
    for name in list(os.environ):
        if name.upper().startswith(("PIPELINE_", "OTEL_")):
            monkeypatch.delenv(name)
    served = Served()

    @asynccontextmanager
    async def opened(settings: Settings) -> AsyncIterator[Served]:
        yield served

    monkeypatch.setattr("pipeline_processing.app.kafka.events", opened)
    monkeypatch.setattr("pipeline_processing.app.kafka.topics", opened)
    monkeypatch.setattr("pipeline_processing.aio.clock.SystemClock", HurriedClock)
    return served


def lines(path: Path, *requests: object) -> str:
    """A file of these, a line each: text as it is, anything else as JSON."""
    file = path / "requests.ndjson"
    file.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in requests))
    return str(file)


# -- what is sent --------------------------------------------------------------------------------


def test_the_run_id_is_all_there_is_on_stdout(kafka: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """A script can take it from there."""
    assert main([*ASK, "--agency-id", "7", "--run-id", "run-7"]) == 0

    assert capsys.readouterr() == ("run-7\n", "")
    assert kafka.requests == [JobRequest(agency_id=7, run_id="run-7")]


def test_every_option_is_in_the_request(kafka: Served) -> None:
    """Under the names of the schema."""
    options = {
        "--dataset": "records",
        "--format": "csv",
        "--since": "2026-01-01T00:00:00Z",
        "--until": "2026-01-02T00:00+01:00",
        "--param": "reason=audit",
        "--priority": "-3",
        "--deadline": "2026-01-20T00:00:00Z",
        "--not-before": "2026-01-19T00:00:00Z",
        "--requested-by": "ops",
        "--label": "team=billing=eu",
    }
    words = [word for option in options.items() for word in option]

    more = ["--dataset", "events", "--param", "n=1", "--label", "ticket=42"]
    assert main([*ASK, "--agency-id", "7", "--dry-run", *words, *more]) == 0

    (sent,) = kafka.requests
    assert sent.run_id is not None
    assert sent.model_dump(mode="json", exclude={"run_id"}) == {
        "agency_id": 7,
        "job": "agency_data_job",
        "datasets": ["records", "events"],
        "params": {"reason": "audit", "n": "1"},
        "since": "2026-01-01T00:00:00Z",
        "until": "2026-01-01T23:00:00Z",
        "format": "csv",
        "dry_run": True,
        "requested_by": "ops",
        "labels": {"ticket": "42", "team": "billing=eu"},
        "priority": -3,
        "not_before": "2026-01-19T00:00:00Z",
        "deadline": "2026-01-20T00:00:00Z",
        "replay_of": None,
    }


def test_times_may_be_ages_and_days(kafka: Served) -> None:
    """Of rows to export, they lie in the past; a start and a deadline, ahead."""
    ages = ["--since", "2026-01-18", "--until", "1h", "--not-before", "1h", "--deadline", "2h"]
    assert main([*ASK, "--agency-id", "7", *ages]) == 0

    (sent,) = kafka.requests
    hour = timedelta(hours=1)
    assert (sent.since, sent.until) == (datetime(2026, 1, 18, tzinfo=UTC), EPOCH - hour)
    assert (sent.not_before, sent.deadline) == (EPOCH + hour, EPOCH + 2 * hour)


def test_json_has_the_agency_of_each_run(kafka: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """An object per request and line."""
    assert main([*ASK, "--agency-id", "3", "1", "-o", "json"]) == 0

    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"run_id": sent.run_id, "agency_id": sent.agency_id} for sent in kafka.requests
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["--agency-id", "3", "--agency-id", "1", "--agency-id", "2"],
        ["--agency-id", "3", "1", "2", "--priority", "1"],
    ],
    ids=["repeated", "in a row"],
)
def test_each_agency_has_a_run_of_its_own(words: list[str], kafka: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """Their ids are told in the order of the agencies."""
    assert main([*ASK, *words]) == 0

    assert [sent.agency_id for sent in kafka.requests] == [3, 1, 2]
    assert capsys.readouterr().out.split() == [sent.run_id for sent in kafka.requests]
    assert len({sent.run_id for sent in kafka.requests}) == 3


def test_a_file_is_sent_line_by_line(kafka: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the ids that it names, and new ones for the rest; the same request may stand there twice."""
    named = {"agency_id": 2, "run_id": "run-b", "params": {"n": 1}}
    file = lines(tmp_path, {"agency_id": 1}, "", named, "  \r", {**named, "requested_by": "me"})

    assert main([*ASK, "--file", file]) == 0

    out = capsys.readouterr().out.split()
    assert out[1:] == ["run-b", "run-b"]
    assert [(sent.agency_id, sent.run_id) for sent in kafka.requests] == [(1, out[0]), (2, "run-b"), (2, "run-b")]


@pytest.mark.usefixtures("kafka")
def test_requests_may_come_from_stdin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that another program can make them."""
    with open(lines(tmp_path, {"agency_id": 5, "run_id": "r"})) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main([*ASK, "--file", "-"]) == 0
    assert capsys.readouterr().out == "r\n"


def test_no_requests_are_no_error(kafka: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was asked for, and nothing is done."""
    assert main([*ASK, "--file", lines(tmp_path, "")]) == 0
    assert capsys.readouterr() == ("", "There are no requests.\n")
    assert kafka.requests == []


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--agency-id"),
        (["--agency-id", "1", "--agency-id", "2", "--run-id", "r"], "--run-id"),
        (["--agency-id", "1", "--agency-id", "1"], "1 is given twice"),
        (["--agency-id", "one"], "--agency-id"),
        (["--agency-id", "1", "--param", "x"], "KEY=VALUE"),
        (["--file", "FILE", "--agency-id", "1"], "--file"),
        (["--file", "FILE", "--dry-run"], "--file"),
        (["--file", "FILE", "--priority", "0"], "--file"),
        (["--file", "/nowhere/requests.ndjson"], "/nowhere/requests.ndjson"),
    ],
)
def test_wrong_usage_is_64(
    arguments: list[str], says: str, kafka: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is sent."""
    file = lines(tmp_path, {"agency_id": 1})

    assert main([*ASK, *(file if word == "FILE" else word for word in arguments)]) == 64

    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert kafka.requests == []


def test_every_fault_of_a_request_is_told(kafka: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """Once, where it is the same for all agencies."""
    words = ["--label", "a b=x", "--priority", "99999", "--since", "soon", "--deadline", "tomorrow"]
    assert main([*ASK, "--agency-id", "0", "--agency-id", "5", *words]) == 65

    assert capsys.readouterr().err.splitlines() == [
        "Error: The request isn't valid:",
        "  agency_id 0: Input should be greater than or equal to 1",
        "  since: must be a time with its zone, such as 2026-01-18T10:00:00Z",
        "  labels.a b.[key]: must begin with a letter or digit and have at most 63 letters, digits, `.`, `_`, `/`, `-`",
        "  priority: Input should be less than or equal to 32767",
        "  deadline: must be a time with its zone, such as 2026-01-18T10:00:00Z",
    ]
    assert kafka.requests == []


@pytest.mark.parametrize("words", [("--agency-id", "1"), ("--file", "-")])
def test_another_job_is_refused(words: tuple[str, ...], kafka: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """As `run` does."""
    assert main(["submit", "other_job", *words]) == 65
    assert capsys.readouterr().err == "Error: There is no job 'other_job'. The job is agency_data_job.\n"


def test_a_file_with_a_fault_sends_nothing(kafka: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every faulty line is told by its number."""
    file = lines(
        tmp_path,
        {"agency_id": 1, "run_id": "a"},
        "{",
        "",
        {"agency_id": 0, "colour": "red"},
        {"agency_id": 1, "job": "other_job"},
        {"agency_id": 2, "run_id": "a"},
        {"agency_id": 3, "params": {"x": "y" * MAX_REQUEST_BYTES}},
    )

    assert main([*ASK, "--file", file]) == 65

    out, err = capsys.readouterr()
    head, *faults = err.splitlines()
    assert out == ""
    assert head == f"Error: {file} isn't valid, and none of its requests was sent:"
    assert [fault.split(":")[0] for fault in faults] == [f"  line {n}" for n in (2, 4, 5, 6, 7)]
    assert "isn't JSON" in faults[0]
    assert "agency_id" in faults[1]
    assert "colour: unknown key" in faults[1]
    assert "'other_job'" in faults[2]
    assert "'a' is also used in line 1" in faults[3]
    assert "262,144" in faults[4]
    assert kafka.requests == []


def test_a_request_that_is_too_large_is_refused(kafka: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """It would only become a dead letter."""
    params = (word for n in range(9) for word in ("--param", f"p{n}={'x' * 30_000}"))

    assert main([*ASK, "--agency-id", "1", *params]) == 65
    assert "262,144" in capsys.readouterr().err
    assert kafka.requests == []


# -- following -----------------------------------------------------------------------------------


def test_following_tells_each_end_and_exits_with_the_worst(kafka: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """A line per run on stderr, whatever stands in its message."""
    kafka.outcomes = {
        1: announced(1, rows_written=1234, manifest="s3://exports/a/_manifest.json"),
        2: announced(2, state="failed", error=BROKEN),
        3: announced(3, state="failed", error=GONE),
        4: refused,
    }

    assert main([*ASK, "--follow", *(word for n in kafka.outcomes for word in ("--agency-id", str(n)))]) == 69

    out, err = capsys.readouterr()
    run = out.split()
    assert run == [sent.run_id for sent in kafka.requests]
    *ends, summary, first, second, third = err.splitlines()
    assert sorted(ends) == sorted(
        [
            f"{run[0]}: succeeded, 1,234 rows, s3://exports/a/_manifest.json",
            f"{run[1]}: failed, query_failed: division by [31mzero",
            f"{run[2]}: failed, source_unavailable: The server hung up.",
            f"{run[3]}: refused, conflicting_request: {ConflictingRequest('x')}",
        ]
    )
    assert re.match(r"4 runs(?: in [\d.]+ s)?: 1 exported 1,234 rows \(0 B\), 1 refused, 2 failed\.", summary)
    assert {first, second, third} == {
        f"  failed (query_failed): {run[1]}",
        f"  failed (source_unavailable): {run[2]}",
        f"  refused (conflicting_request): {run[3]}",
    }


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"rows_written": 2}, 0, "run-1: succeeded, 2 rows\n"),
        ({"dry_run": True}, 0, "run-1: succeeded (dry run), 0 rows\n"),
        ({"state": "cancelled"}, 79, "run-1: cancelled\n"),
        ({"state": "failed", "error": BROKEN}, 1, "run-1: failed, query_failed: division by [31mzero\n"),
    ],
)
def test_the_end_of_a_run_is_a_line_and_a_code(
    fields: dict[str, Any], code: int, said: str, kafka: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    """The codes are those of `run`."""
    kafka.outcomes = {1: announced(1, **fields)}
    dry = ["--dry-run"] if fields.get("dry_run") else []

    assert main([*ASK, "--agency-id", "1", "--run-id", "run-1", "--follow", *dry]) == code
    assert capsys.readouterr() == ("run-1\n", said)


def worked_on(kafka: Served, tasks: list[asyncio.Task[None]]) -> Callable[[Record], Outgoing]:
    """The run tells its progress, and a little later its end. `tasks` keeps hold of who does that."""

    async def work(record: Record) -> None:
        await asyncio.sleep(0.1)
        kafka.put(replace(progress(1, 4321), topic=TOPICS.progress_topic))
        await asyncio.sleep(0.3)
        kafka.put(announced(1, rows_written=7)(record))

    def begin(record: Record) -> Outgoing:
        tasks.append(asyncio.get_running_loop().create_task(work(record)))
        return Outgoing(TOPICS.progress_topic, None, None)

    return begin


def test_progress_is_shown(kafka: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """As `run` shows it."""
    kafka.outcomes = {1: worked_on(kafka, [])}

    assert main([*ASK, "--agency-id", "1", "--run-id", "run-1", "--follow"]) == 0
    assert capsys.readouterr() == (
        "run-1\n",
        "run-1: records: 4,321 rows read, 4,321 written, 0 B\nrun-1: succeeded, 7 rows\n",
    )


def test_nobody_who_listens_is_told_once(kafka: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """With what to do about it; not if a worker is there, or if nobody may ask."""
    kafka.workers = []
    kafka.outcomes = {1: worked_on(kafka, [])}
    assert main([*ASK, "--agency-id", "1", "--run-id", "run-1", "--follow"]) == 0
    note, *rest = capsys.readouterr().err.splitlines()
    assert note.startswith("No worker is listening to agency-jobs.requests (group agency-data-job). Start one")
    assert not [line for line in rest if "worker" in line]


def test_on_a_terminal_the_display_swallows_nothing(kafka: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run ids stay on stdout, which it takes over as well; results begin a line of their own, or would be wiped out."""
    kafka.outcomes = {1: worked_on(kafka, [])}
    ours, theirs = pty.openpty()
    stdout, shown = io.StringIO(), bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # how Linux says that nobody writes any more
            while data := os.read(ours, 1024):
                shown.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stdout)
        patched.setattr(sys, "stderr", terminal)
        patched.setenv("TERM", "xterm")
        assert main([*ASK, "--agency-id", "1", "--run-id", "run-1", "--follow"]) == 0
    reader.join(timeout=10)
    os.close(ours)

    assert stdout.getvalue() == "run-1\n"
    assert re.search(rb"1  records +4,321 +4,321", shown)
    assert re.search(rb"(\x1b\[2K|[\r\n])run-1: succeeded, 7 rows\r\n", shown)


# -- broken off ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_whoever_stops_following_is_told_what_goes_on(
    sent: signal.Signals, code: int, kafka: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    """The runs aren't stopped; what has ended isn't named."""
    kafka.outcomes = {1: announced(1)}
    kafka.on_follow = lambda: asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), sent)

    assert main([*ASK, "--agency-id", "1", "--agency-id", "2", "--follow"]) == code

    out, err = capsys.readouterr()
    first, second = out.split()
    told = err.splitlines()
    assert told[0] == f"{first}: succeeded, 0 rows"
    assert told[1].startswith(f"{second} continues")
    assert f"    pipeline-processing history --run-id {second}" in told
    assert not [line for line in told[1:] if first in line]


def test_kafka_that_is_down_is_69_after_a_while(kafka: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing is said to have been sent."""
    kafka.outage = True

    assert main([*ASK, "--agency-id", "1"]) == 69
    assert capsys.readouterr() == ("", "Error: Kafka in memory can't be reached: this test has an outage.\n")


def test_what_may_have_been_sent_is_told(
    kafka: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An answer that never came leaves it open; the run id makes it safe to try again."""

    async def lost(messages: Sequence[Outgoing]) -> None:
        kafka.outage = True
        await MemoryBroker.send(kafka, messages)

    monkeypatch.setattr(kafka, "send", lost)

    assert main([*ASK, "--agency-id", "1", "--run-id", "run-1"]) == 69
    out, err = capsys.readouterr()
    assert out == ""
    assert "run-1 may have been sent" in err
    assert "    --run-id run-1\n" in err

    kafka.outage = False
    assert main([*ASK, "--file", lines(tmp_path, *[{"agency_id": n} for n in range(1, 9)])]) == 69
    out, err = capsys.readouterr()
    assert out == ""
    assert "0 of 8 requests were sent" in err
