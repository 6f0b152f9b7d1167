"""`history` on the in-memory run table: what it prints for people and for programs."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer

from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.cli import history
from pipeline_processing.cli.common import complete
from pipeline_processing.cli.context import new_mask
from pipeline_processing.cli.main import main
from pipeline_processing.cli.options import moment
from pipeline_processing.cli.run_filters import StateOption
from pipeline_processing.errors import RunUnknown, SourceUnavailable
from pipeline_processing.history.memory.store import memory_run_store
from pipeline_processing.history.memory.table import RunTable
from pipeline_processing.model import Attempt, Counts, DatasetCounts, JobRequest, Run, RunFailure, RunState
from pipeline_processing.plan import Plan
from pipeline_processing.runs.deliveries import Tried
from pipeline_processing.runs.store import Incoming, Origin, Outcome, RunStore
from pipeline_processing.settings.settings import Settings
from pipeline_processing.terminal import render, tables
from tests.unit.stepped_clock import SteppedClock

LEASE = timedelta(seconds=30)
IDS: dict[str, Any] = {"trace_id": "6f1c0a9d27b84e53a1d2c3b4e5f60718", "span_id": "a1b2c3d4e5f60718"}
UNREACHABLE = RunFailure(kind="source_unavailable", message="The server hung up.", retryable=True, exit_code=69)
BROKEN = RunFailure(
    kind="query_failed", message="division by zero\nRow 12,\x1b[31m column fee", retryable=False, exit_code=1
)


PERMITS = DatasetCounts(name="permits", rows_read=1234567, rows_written=1234000, rows_filtered=566, rows_rejected=1)
LABELS = {"order": "A 17", "team": "harbour"}
FEES = DatasetCounts(name="fees", rows_read=5, rows_written=5)


async def three_runs(store: RunStore, clock: SteppedClock) -> None:
    """`first` failed on its second attempt, `second` was a dry run and succeeded, `third` waits."""

    async def claimed(run_id: str, worker: str) -> Any:
        claim = await store.queue.claim(worker=worker, lease=LEASE, max_runs_per_agency=1, run_id=run_id)
        assert claim is not None
        await store.attempts.start(claim, **IDS)
        return claim

    await store.intake.accept(Incoming(JobRequest(agency_id=7, datasets=("permits",)), run_id="first", **IDS))
    claim = await claimed("first", "host-1:20:aa")
    clock.pass_(1.2)
    await store.attempts.retry(claim, UNREACHABLE, delay=timedelta(seconds=5))
    clock.pass_(5)
    claim = await claimed("first", "host-2:31:bb")
    clock.pass_(184)
    await store.attempts.fail(claim, BROKEN)

    clock.pass_(60)
    await store.intake.accept(Incoming(JobRequest(agency_id=12345, dry_run=True), run_id="second", **IDS))
    claim = await claimed("second", "host-1:20:aa")
    clock.pass_(0.84)
    counts = Counts(rows_read=1234567, rows_written=1234000, rows_filtered=567)
    await store.attempts.succeed(claim, Outcome(counts=counts, bytes_written=98765432))

    clock.pass_(60)
    origin = Origin(topic="agency-jobs.requests", partition=2, offset=77)
    await store.intake.accept(
        Incoming(JobRequest(agency_id=7, requested_by="portal", labels=LABELS), run_id="third", origin=origin, **IDS)
    )


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """The history that the command opens."""
    new_mask()
    clock = SteppedClock()
    store = memory_run_store(RunTable(clock=clock))
    asyncio.run(three_runs(store, clock))

    @asynccontextmanager
    async def opened(settings: Settings, **_: object) -> AsyncIterator[RunStore]:
        yield store

    monkeypatch.setattr("pipeline_processing.app.history.run_store", opened)
    monkeypatch.setattr(history, "current_settings", Settings)
    return store


Show = Callable[..., str]


@pytest.fixture
def show(store: RunStore, capsys: pytest.CaptureFixture[str]) -> Show:
    """Runs `history` with these arguments; what it printed."""

    def show(*arguments: str) -> str:
        complete(history.app)(arguments, standalone_mode=False)
        return capsys.readouterr().out

    return show


def ids(lines: str) -> list[str]:
    return [json.loads(line)["run_id"] for line in lines.splitlines()]


# -- the list ------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_in_aligned_columns(show: Show) -> None:
    """Without a terminal: one line per run, nothing cut off, numbers under each other."""
    assert show().splitlines() == [
        "RUN ID  AGENCY  STATE                ATTEMPT  QUEUED (UTC)"
        "             TOOK  ROWS READ  ROWS WRITTEN       BYTES  ERROR",
        "third        7  queued                     0  2026-01-18 10:05:11"
        "         -          -             -           -  -",
        "second   12345  succeeded (dry run)        1  2026-01-18 10:04:10"
        "    840 ms  1,234,567     1,234,000  98,765,432  -",
        "first        7  failed                     2  2026-01-18 10:00:00"
        "  3 m 10 s          -             -           -  query_failed",
    ]


def test_an_empty_history_is_a_header(show: Show) -> None:
    """Nobody has to wonder whether the command worked."""
    assert show("--agency-id", "999").split()[0] == "RUN"
    assert show("--agency-id", "999", "--json") == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ["third", "second", "first"]),
        (("--agency-id", "7"), ["third", "first"]),
        (("--state", "failed"), ["first"]),
        (("--limit", "2"), ["third", "second"]),
        (("--since", "2026-01-18T10:04:10Z"), ["third", "second"]),
        (("--since", "2026-01-18T11:04:11+01:00"), ["third"]),
        (("--since", "2026-01-18"), ["third", "second", "first"]),
        (("--agency-id", "7", "--state", "queued", "--since", "2026-01-18T10:00"), ["third"]),
        (("--state", "queued", "--state", "failed"), ["third", "first"]),
        (("--until", "2026-01-18T10:04:10Z"), ["first"]),
        (("--error-kind", "step_failed", "--error-kind", "query_failed"), ["first"]),
        (("--error-kind", "step_failed"), []),
        (("--label", "team=harbour", "--label", "order=A 17"), ["third"]),
        (("--label", "team=harbour", "--label", "order=A 18"), []),
        (("--requested-by", "portal"), ["third"]),
        (("--search", "ir"), ["third", "first"]),
    ],
)
def test_filters_narrow_the_list(show: Show, arguments: Sequence[str], expected: list[str]) -> None:
    """Each of them, and together."""
    assert ids(show("--json", *arguments)) == expected


def test_json_has_the_columns_of_the_history(show: Show) -> None:
    """One flat object per line: the error in two columns, times in ISO."""
    first = json.loads(show("--json", "--state", "failed"))

    assert tuple(first) == render.HISTORY_COLUMNS
    assert first["error_kind"] == "query_failed"
    assert first["error_message"] == BROKEN.message
    assert first["queued_at"] == "2026-01-18T10:00:00Z"
    assert first["request"]["datasets"] == ["permits"]


def at_terminal(monkeypatch: pytest.MonkeyPatch, *, width: int) -> None:
    monkeypatch.setattr(tables, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (160, "RUN ID AGENCY STATE ATTEMPT QUEUED (UTC) TOOK ROWS READ ROWS WRITTEN BYTES ERROR"),
        (80, "RUN ID AGENCY STATE QUEUED (UTC) TOOK ERROR"),
        (10, "RUN ID STATE"),
    ],
)
def test_a_terminal_gets_the_columns_that_fit(
    show: Show, monkeypatch: pytest.MonkeyPatch, width: int, titles: str
) -> None:
    """Ids and states are never broken, even where nothing fits."""
    at_terminal(monkeypatch, width=width)

    header, *lines = show().splitlines()

    assert " ".join(header.split()) == titles
    assert [line.split()[0] for line in lines] == ["third", "second", "first"]
    assert "succeeded (dry run)" in lines[1]


def test_wide_shows_every_column(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal of any width, and elsewhere."""
    elsewhere = show("-o", "wide", "--state", "queued")
    at_terminal(monkeypatch, width=40)
    header, third = show("-o", "wide", "--state", "queued").splitlines()

    assert all(column.title in header for column in render.RUN_TABLE)
    assert "portal" in third
    assert "order=A 17, team=harbour" in third
    assert [line.split() for line in elsewhere.splitlines()] == [header.split(), third.split()]


def test_json_may_be_asked_for_in_two_ways(show: Show) -> None:
    """`--json` is older, and shorter."""
    assert show("-o", "json") == show("--json")
    assert show("--output", "json", "--run-id", "first") == show("--json", "--run-id", "first")


def test_a_list_says_whether_it_is_whole(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Always if it isn't; how long it is, only on a terminal."""
    complete(history.app)(["--limit", "2", "--json"], standalone_mode=False)
    assert capsys.readouterr().err == "The newest 2 runs. There are more: narrow the list, or raise --limit.\n"
    complete(history.app)(["--limit", "3"], standalone_mode=False)
    assert capsys.readouterr().err == ""
    at_terminal(monkeypatch, width=80)
    complete(history.app)(["--limit", "3"], standalone_mode=False)
    assert capsys.readouterr().err == "3 runs.\n"


@pytest.fixture
def named(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """There is a query for names. Returns the agencies that were asked for."""
    asked: list[object] = []

    async def names(settings: Settings, agency_ids: Sequence[int]) -> dict[int, str]:
        asked.extend(agency_ids)
        if 12345 in agency_ids:
            return {7: "Harbour Authority"}
        raise SourceUnavailable("Can't reach it.")

    settings = Settings.model_validate({"source": {"agency_names": "SELECT 1"}})
    monkeypatch.setattr(history, "current_settings", lambda: settings)
    monkeypatch.setattr("pipeline_processing.app.agency_names.agency_names", names)
    return asked


def test_agencies_are_shown_with_their_names(show: Show, named: list[object]) -> None:
    """Those that the query knows; it isn't asked for JSON."""
    header, *lines = show().splitlines()

    assert header.split()[:5] == ["RUN", "ID", "AGENCY", "NAME", "STATE"]
    assert ["Harbour Authority  " in line for line in lines] == [True, False, True]
    named.clear()
    show("--json")
    assert named == []


def test_a_list_comes_without_names_if_they_cannot_be_asked_for(
    store: RunStore, named: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    """And says why."""
    complete(history.app)(["--agency-id", "7"], standalone_mode=False)

    out, err = capsys.readouterr()
    assert "NAME" not in out
    assert "third" in out
    assert err == "No names of agencies (PIPELINE_SOURCE__AGENCY_NAMES): Can't reach it.\n"


# -- watching ------------------------------------------------------------------------------------


@pytest.fixture
def interrupted(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes after the second look. Before it, `third` is cancelled."""
    pauses = []

    async def sleep(_clock: SystemClock, _seconds: float) -> None:
        pauses.append(_seconds)
        if len(pauses) == 2:
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(60)
        await store.queue.cancel("third")

    monkeypatch.setattr(SystemClock, "sleep", sleep)


@pytest.mark.usefixtures("interrupted")
def test_watching_prints_each_change_until_it_is_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    """As objects with `--json`: first the runs that are there, oldest first, then what changes."""
    assert main(["history", "--watch", "--json", "--agency-id", "7"]) == 130

    runs = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(run["run_id"], run["state"]) for run in runs] == [
        ("first", "failed"),
        ("third", "queued"),
        ("third", "cancelled"),
    ]


# -- one run -------------------------------------------------------------------------------------


def test_one_run_is_shown_in_full_with_its_attempts(show: Show) -> None:
    """What is known, a line each; then every try with its worker and error; no control characters."""
    shown = show("--run-id", "first")

    facts, attempts = shown.split("\n\n")
    assert facts.splitlines() == [
        "run id    first",
        "job       agency_data_job",
        "agency    7",
        "state     failed",
        "attempt   2",
        'request   {"agency_id": 7, "datasets": ["permits"]}',
        "queued    2026-01-18 10:00:00 UTC",
        "started   2026-01-18 10:00:00 UTC",
        "finished  2026-01-18 10:03:10 UTC",
        "took      3 m 10 s",
        "error     query_failed",
        "message   division by zero",
        "          Row 12, [31m column fee",
        "worker    host-2:31:bb",
        "fence     2",
        f"trace id  {IDS['trace_id']}",
    ]
    assert attempts.splitlines() == [
        "ATTEMPT  OUTCOME   WORKER        STARTED (UTC)           TOOK  ERROR",
        "      1  retrying  host-1:20:aa  2026-01-18 10:00:00    1.2 s  source_unavailable: The server hung up.",
        "      2  failed    host-2:31:bb  2026-01-18 10:00:06  3 m 4 s  "
        "query_failed: division by zero Row 12, [31m column fee",
    ]


def test_a_waiting_run_tells_where_it_came_from(show: Show) -> None:
    """And has no attempts to show."""
    shown = show("--run-id", "third")

    assert "came from     agency-jobs.requests, partition 2, offset 77\n" in shown
    assert "requested by  portal\n" in shown
    assert "labels        order=A 17, team=harbour\n" in shown
    assert "ATTEMPT" not in shown


def test_one_run_as_json_has_its_attempts(show: Show) -> None:
    """One object: the run's columns, and a list."""
    run = json.loads(show("--run-id", "first", "--json"))

    assert tuple(run) == (*render.HISTORY_COLUMNS, "datasets", "attempts", "webhooks")
    assert run["datasets"] == run["webhooks"] == []
    assert [(a["attempt"], a["outcome"], a["error_kind"]) for a in run["attempts"]] == [
        (1, "retrying", "source_unavailable"),
        (2, "failed", "query_failed"),
    ]


def decided(store: RunStore) -> None:
    """The run that waits is exported, as two datasets."""

    async def prepare() -> None:
        claim = await store.queue.claim(worker="host-1:20:aa", lease=LEASE, max_runs_per_agency=1, run_id="third")
        assert claim is not None
        plan = Plan(destination="s3://exports", artifacts=(), metadata={}, manifest_key="m", manifest="{}")
        await store.attempts.prepare(claim, plan, Outcome(counts=PERMITS + FEES, datasets=(PERMITS, FEES)))

    asyncio.run(prepare())


def test_one_run_is_shown_with_its_datasets(show: Show, store: RunStore) -> None:
    """Once it is decided: what became of the rows of each, numbers under each other."""
    decided(store)

    _, datasets, attempts = show("--run-id", "third").split("\n\n")

    assert datasets.splitlines() == [
        "DATASET  ROWS READ    WRITTEN  FILTERED  REJECTED",
        "permits  1,234,567  1,234,000       566         1",
        "fees             5          5         0         0",
    ]
    assert attempts.startswith("ATTEMPT")


def test_one_run_as_json_has_its_datasets(show: Show, store: RunStore) -> None:
    """As the manifest lists them."""
    decided(store)

    run = json.loads(show("--run-id", "third", "--json"))

    assert run["datasets"] == [
        {"name": "permits", "rows_read": 1234567, "rows_written": 1234000, "rows_filtered": 566, "rows_rejected": 1},
        {"name": "fees", "rows_read": 5, "rows_written": 5, "rows_filtered": 0, "rows_rejected": 0},
    ]


def notified(store: RunStore) -> None:
    """The run that waits is cancelled, which one webhook refuses and another accepts."""

    async def notify() -> None:
        await store.deliveries.configure({"billing": ["cancelled"], "chat": ["cancelled"]})
        await store.queue.cancel("third")
        for webhook, tried in (
            ("billing", Tried(500, "webhook 'billing' answers 500.", timedelta(seconds=30))),
            ("chat", Tried(204)),
        ):
            (due,) = await store.deliveries.claim(webhook, limit=1, lease=LEASE)
            await store.deliveries.record(due, tried)

    asyncio.run(notify())


def test_one_run_is_shown_with_its_webhooks(show: Show, store: RunStore) -> None:
    """Who has got its event, and who hasn't, and why."""
    notified(store)

    _, webhooks = show("--run-id", "third").split("\n\n")

    assert webhooks.splitlines() == [
        "WEBHOOK  STATE      TRIES  DELIVERED (UTC)      NEXT TRY (UTC)       ERROR",
        "billing  pending        1  -                    2026-01-18 10:05:41  webhook 'billing' answers 500.",
        "chat     delivered      1  2026-01-18 10:05:11  -                    -",
    ]


def test_one_run_as_json_has_its_webhooks(show: Show, store: RunStore) -> None:
    """One object each."""
    notified(store)

    billing, chat = json.loads(show("--run-id", "third", "--json"))["webhooks"]

    assert billing == {
        "event_id": "third:cancelled",
        "webhook": "billing",
        "state": "pending",
        "tries": 1,
        "next_at": "2026-01-18T10:05:41.040000Z",
        "last_status": 500,
        "last_error": "webhook 'billing' answers 500.",
        "delivered_at": None,
    }
    assert (chat["state"], chat["last_status"], chat["delivered_at"]) == (
        "delivered",
        204,
        "2026-01-18T10:05:11.040000Z",
    )


def test_an_unknown_run_is_an_error(show: Show) -> None:
    """Exit code 65, with the way to the runs there are."""
    with pytest.raises(RunUnknown, match="has no run 'nobody'"):
        show("--run-id", "nobody")


# -- old runs ------------------------------------------------------------------------------------


def test_an_export_has_every_run_in_full(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `--run-id ID --json` prints it, page by page."""
    monkeypatch.setattr(history, "_PAGE", 1)
    exported = show("export")

    assert ids(exported) == ["third", "second", "first"]
    assert exported == "".join(show("--run-id", run_id, "--json") for run_id in ids(exported))
    assert ids(show("export", "--agency-id", "12345")) == ["second"]


def test_pruning_tells_what_it_removed_and_kept(show: Show, store: RunStore) -> None:
    """A run is kept until its event is sent; a run that waits is none of its business."""

    async def send(_: object) -> None:
        pass

    assert (
        show("prune", "--before", "0s")
        == "removed  0 runs\nkept  2 runs: the event isn't sent; a running `serve` sends it\n"
    )
    asyncio.run(store.outbox.announce(send, limit=1))
    assert show("prune", "--before", "0s", "--dry-run").startswith("would remove  1 run\n")
    kept = {"unsent": 1, "undelivered": 0, "leftovers": 0, "last_success": 0}
    assert json.loads(show("prune", "--before", "0s", "--json")) == {"pruned": 1, "kept": kept}
    assert ids(show("--json")) == ["third", "second"]


# -- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--state", "lost"), "the states are queued, running, prepared"),
        (("--since", "yesterday"), "neither a time nor a duration"),
        (("--since", "99999999999999d"), "neither a time nor a duration"),
        (("--limit", "0"), "--limit"),
        (("--agency-id", "0"), "--agency-id"),
        (("--label", "team"), "'team' isn't KEY=VALUE"),
        (("--search", "\udcff"), "isn't text in UTF-8"),
        (("--run-id", "first", "--state", "failed"), "leave out"),
        (("--run-id", "first", "--watch"), "leave out"),
        (("--agency-id", "7", "prune", "--before", "1d"), "write options behind it: history prune"),
    ],
)
def test_a_wrong_option_is_wrong_usage(show: Show, arguments: Sequence[str], message: str) -> None:
    """Told with the option's name and what it takes."""
    with pytest.raises(typer.BadParameter) as refused:
        show(*arguments)

    assert message in refused.value.format_message()
    assert (arguments[0] in refused.value.format_message()) is ("prune" not in arguments)


def test_since_may_be_a_duration_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """`2h`: counted back from now; a time keeps its instant."""
    clock = SteppedClock()
    monkeypatch.setattr("pipeline_processing.aio.clock.SystemClock", lambda: clock)

    assert moment("2h") == clock.now() - timedelta(hours=2)
    assert moment("7d") == clock.now() - timedelta(days=7)
    assert moment("2026-01-18T12:00+02:00") == datetime(2026, 1, 18, 10, 0, tzinfo=UTC)


def test_the_help_names_every_state() -> None:
    """The states in `--help` are written by hand, so that it needn't import the model."""
    help_text = StateOption.__metadata__[0].help

    assert all(state in help_text for state in RunState)


# -- rendering -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [
        (None, "-"),
        (0, "0 ms"),
        (999.4, "999 ms"),
        (999.6, "1.0 s"),
        (1200, "1.2 s"),
        (59_940, "59.9 s"),
        (59_960, "1 m 0 s"),
        (184_000, "3 m 4 s"),
        (3_599_600, "1 h 0 m"),
        (7_500_000, "2 h 5 m"),
    ],
)
def test_durations_are_shown_in_two_units_at_most(milliseconds: float | None, shown: str) -> None:
    """Rounded before the unit is chosen: there is no 60.0 s."""
    assert render.duration(milliseconds) == shown


def test_times_are_shown_in_utc() -> None:
    """Whatever zone they come in."""
    assert render.moment(datetime.fromisoformat("2026-01-18T00:30:00+02:00")) == "2026-01-17 22:30:00"


def test_a_narrow_terminal_breaks_no_id_and_no_number(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are longer than the window then, and can still be copied."""
    monkeypatch.setattr(tables, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")

    shown = show("--run-id", "second") + show()

    assert "98,765,432" in shown
    assert "2026-01-18 10:04:10" in shown


def test_square_brackets_are_no_markup_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error message is shown as it is."""
    monkeypatch.setattr(tables, "on_terminal", lambda: True)
    attempt = Attempt(
        run_id="r",
        attempt=1,
        fence=1,
        worker="w",
        outcome="failed",
        started_at=datetime(2026, 1, 18, tzinfo=UTC),
        error_kind="step_failed",
        error_message="[bold]x[/]",
    )

    tables.print_table(render.ATTEMPT_TABLE, [attempt])

    assert "[bold]x[/]" in capsys.readouterr().out


def test_every_contract_column_is_in_the_run() -> None:
    """The columns users rely on, but for the error's two, are fields of a run."""
    assert set(render.HISTORY_COLUMNS) - {"error_kind", "error_message"} <= set(Run.model_fields)
