"""`replay`: which options go together, what it prints, and that only --execute sends."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence

import pytest

from pipeline_processing.cli import replay
from pipeline_processing.cli.main import main
from pipeline_processing.requests.job_messages import received
from pipeline_processing.settings.settings import Settings
from tests.unit.past_requests import Past
from tests.unit.stepped_clock import START


@pytest.fixture
def past(monkeypatch: pytest.MonkeyPatch) -> Iterator[Past]:
    """`a` failed, `b` succeeded, `c` of another agency waits, and there is a message that is no request."""
    past = Past()

    async def happen() -> None:
        past.request("a", requested_by="billing")
        past.request("b")
        past.request("c", agency_id=12345)
        past.send("rubbish")
        await past.take()
        await past.fail("a")
        await past.succeed("b")

    asyncio.run(happen())
    monkeypatch.setattr(replay, "current_settings", Settings)
    with past.behind_the_command_line():
        yield past


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(past: Past, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `replay` with these arguments; exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["replay", *arguments])
        return code, *capfd.readouterr()

    return run


SINCE = START.isoformat()


def test_the_plan_is_shown_and_nothing_is_sent(past: Past, run: Run) -> None:
    """A line for each request, what is left out and why, and how to go on."""
    before = len(past.sent)
    code, out, _ = run("--since", SINCE)

    assert (code, len(past.sent)) == (0, before)
    assert out.splitlines() == [
        "RUN ID  AGENCY  STATE      REQUESTED (UTC)      WHAT HAPPENS",
        "a            7  failed     2026-01-18 10:00:01  new run a.r1",
        "b            7  succeeded  2026-01-18 10:00:02  new run b.r1",
        "c        12345  queued     2026-01-18 10:00:03  nothing: it hasn't finished",
        "2 requests to send, 1 left out.",
        "1 message that can't be read as requests: `pipeline-processing dead-letters` lists and resends those.",
        "Nothing was sent. The same command with --execute sends them.",
    ]


def test_executing_sends_what_the_plan_says(past: Past, run: Run) -> None:
    """The same plan, and then the requests."""
    before = past.sent
    plan = run("--since", SINCE)[1].splitlines()
    code, out, _ = run("--since", SINCE, "--execute")

    assert code == 0
    assert out.splitlines() == [*plan[:-1], "2 requests sent."]
    new = [record for record in past.sent if record not in before]
    assert [received(record).run_id for record in new] == ["a.r1", "b.r1"]


@pytest.mark.parametrize(
    ("arguments", "run_ids"),
    [
        (("--run-id", "b"), ["b"]),
        (("--agency-id", "7"), ["a", "b"]),
        (("--failed",), ["a"]),
        (("--failed", "--agency-id", "12345"), []),
        (("--state", "succeeded", "--state", "failed"), ["a", "b"]),
        (("--error-kind", "query_failed", "--agency-id", "7"), ["a"]),
        (("--failed", "--error-kind", "step_failed"), []),
        (("--requested-by", "billing"), ["a"]),
        (("--label", "team=a"), []),
        (("--search", "b", "--until", "1d"), []),
        (("--agency-id", "7", "--since", "2026-01-18T10:00:02Z"), ["a", "b"]),
        (("--agency-id", "7", "--until", "2026-01-18T10:00:02Z"), []),
        (("--since", "2026-01-18T10:00:02"), ["b", "c"]),
        (("--since", "2s"), ["b", "c"]),
        (("--since", SINCE, "--until", "2026-01-18T10:00:02Z"), ["a"]),
        (("--offset", "0:0"), ["a", "b", "c"]),
        (("--offset", "0:0", "--until", "2026-01-18T10:00:02Z"), ["a"]),
        (("--offset", "1:0"), []),
    ],
)
def test_requests_are_chosen_by_options(past: Past, run: Run, arguments: Sequence[str], run_ids: list[str]) -> None:
    """From the topic or the history; all of them were accepted at 10:00:03."""
    assert {record.partition for record in past.sent} == {0}
    code, out, _ = run(*arguments, "--json")

    assert code == 0
    assert [json.loads(line)["run_id"] for line in out.splitlines()] == run_ids


def test_json_is_an_object_per_request(run: Run) -> None:
    """And nothing else on stdout."""
    code, out, err = run("--since", SINCE, "--json")

    assert code == 0
    assert [json.loads(line) for line in out.splitlines()][::2] == [
        {
            "run_id": "a",
            "agency_id": 7,
            "state": "failed",
            "requested_at": "2026-01-18T10:00:01Z",
            "sends": True,
            "new_run_id": "a.r1",
            "outcome": "new run a.r1",
        },
        {
            "run_id": "c",
            "agency_id": 12345,
            "state": "queued",
            "requested_at": "2026-01-18T10:00:03Z",
            "sends": False,
            "new_run_id": None,
            "outcome": "nothing: it hasn't finished",
        },
    ]
    assert "2 requests to send, 1 left out." in err
    assert "--execute" in err


def test_the_same_run_tells_what_becomes_of_each(past: Past, run: Run) -> None:
    """Finished runs, waiting ones, and those that the history has lost."""
    del past.table.records["b"]
    code, out, _ = run("--since", SINCE, "--same-run", "--execute")

    assert code == 0
    assert [line.split(maxsplit=5)[-1] for line in out.splitlines()[1:4]] == [
        "sends its event again",
        "a new run",
        "nothing: it is accepted",
    ]
    assert "b            7  unknown" in out
    assert out.endswith("2 requests sent.\n")


def test_nothing_to_do_is_no_error(run: Run) -> None:
    """It says why, and nothing of --execute."""
    assert run("--failed", "--agency-id", "8") == (0, "Nothing to do: no such requests.\n", "")
    code, out, _ = run("--run-id", "c", "--execute")
    assert code == 0
    assert out.splitlines()[1:] == [
        "c        12345  queued  2026-01-18 10:00:03  nothing: it hasn't finished",
        "Nothing to do: 1 request left out.",
    ]


def test_doing_it_again_takes_only_what_failed_since(past: Past, run: Run) -> None:
    """Once the replays are accepted."""
    assert run("--failed", "--execute")[1].endswith("1 request sent.\n")
    asyncio.run(past.take())
    assert run("--failed", "--execute") == (0, "Nothing to do: no such requests.\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--failed"),
        (("--until", "2h"), "one of these is needed"),
        (("--execute",), "one of these is needed"),
        (("--run-id", "a", "--agency-id", "7"), "only one of these"),
        (("--run-id", "a", "--failed"), "only one of these"),
        (("--run-id", "a", "--requested-by", "x"), "only one of these"),
        (("--failed", "--state", "queued"), "only one of these"),
        (("--offset", "0:0", "--failed"), "only one of these"),
        (("--offset", "0:0", "--agency-id", "7"), "only one of these"),
        (("--offset", "0:0", "--since", "2h"), "leave out --since"),
        (("--run-id", "a", "--since", "2h"), "leave out --since"),
        (("--run-id", "a", "--until", "2h"), "leave out --until"),
        (("--since", "2h", "--until", "2h"), "isn't after --since"),
        (("--since", "soon"), "'--since'"),
        (("--since", "2h", "--until", "soon"), "'--until'"),
        (("--offset", "0"), "isn't partition:offset"),
        (("--agency-id", "0"), "--agency-id"),
    ],
)
def test_what_can_t_be_combined_is_wrong_usage(run: Run, arguments: Sequence[str], message: str) -> None:
    """Exit code 64, before any server is asked."""
    code, out, err = run(*arguments)

    assert (code, out) == (64, "")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--run-id", "nobody"), "has no run 'nobody'"), (("--offset", "7:0"), "has no partition 7. It has 0, 1.")],
)
def test_what_isn_t_there_is_an_error(run: Run, arguments: Sequence[str], message: str) -> None:
    """Exit code 65, with what there is."""
    code, out, err = run(*arguments)

    assert (code, out) == (65, "")
    assert message in err


def test_breaking_off_says_how_far_it_came(past: Past, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what the same command would do."""
    past.broker.lost_replies = 10**9
    code, _, err = run("--since", SINCE, "--execute")
    assert code == 69
    assert "0 of 2 requests were sent, in the plan's order, and perhaps some more." in err
    assert "what was accepted meanwhile a second time" in err

    code, _, err = run("--failed", "--execute")
    assert code == 69
    assert "The same command sends the rest: look at its plan first." in err


def test_a_replay_from_the_history_needs_no_topic_to_be_planned(past: Past, run: Run) -> None:
    """Its plan can be looked at while Kafka is away."""
    past.broker.outage = True

    assert run("--failed")[0] == 0
    assert run("--since", SINCE)[0] == 69


def test_a_long_plan_is_printed_in_tables(past: Past, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them is held in full."""
    monkeypatch.setattr(replay, "_ROWS", 2)
    out = run("--since", SINCE)[1].splitlines()

    assert [line.split()[0] for line in out[:5]] == ["RUN", "a", "b", "RUN", "c"]


def test_control_characters_of_ids_and_errors_reach_no_terminal(past: Past, run: Run) -> None:
    """A run id can't have any, and nothing else of a message is shown."""
    past.clock.pass_(1)
    past.send('{"agency_id": 7, "requested_by": "\\u001b[31m"}')
    asyncio.run(past.take())

    assert "\x1b" not in run("--since", SINCE)[1]
