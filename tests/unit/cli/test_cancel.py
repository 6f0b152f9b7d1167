"""`cancel` on the in-memory run table: which runs it stops, and what it says of the others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pipeline_processing.cli import cancel
from pipeline_processing.cli.main import main
from pipeline_processing.model import RunFailure, RunState
from pipeline_processing.plan import Plan
from pipeline_processing.runs.store import Claim, Outcome
from pipeline_processing.settings.settings import Settings
from pipeline_processing.terminal import tables
from tests.unit.in_memory import LEASE, Between, Service, after, interposed

Captured = pytest.CaptureFixture[str]

FAILURE = RunFailure(kind="query_failed", message="division by zero", retryable=False, exit_code=1)
PLAN = Plan(destination="memory://destination", artifacts=(), metadata={}, manifest_key="m", manifest="{}")


@pytest.fixture
def between() -> Between:
    """What happens between the command and the history."""
    return Between()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, between: Between) -> Service:
    """The history that the command opens has one run, `r`, which is queued."""
    service = Service()
    asyncio.run(service.accept())

    @asynccontextmanager
    async def opened(_: Settings, **__: object) -> AsyncIterator[Any]:
        yield interposed(service.runs, between)

    monkeypatch.setattr("pipeline_processing.app.history.run_store", opened)
    monkeypatch.setattr(cancel, "current_settings", Settings)
    return service


async def claimed(service: Service) -> Claim:
    claim = await service.runs.queue.claim(worker="host-1:20:aa", lease=LEASE, max_runs_per_agency=1)
    assert claim is not None
    return claim


async def prepared(service: Service) -> Claim:
    claim = await claimed(service)
    await service.runs.attempts.prepare(claim, PLAN, Outcome())
    return claim


async def succeeded(service: Service) -> None:
    await service.runs.attempts.succeed(await prepared(service))


async def failed(service: Service) -> None:
    await service.runs.attempts.fail(await claimed(service), FAILURE)


async def cancelled(service: Service) -> None:
    await service.runs.queue.cancel("r")


def test_a_queued_run_is_cancelled(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """For good, with its event."""
    assert main(["cancel", "r"]) == 0

    assert capsys.readouterr() == ("r is cancelled.\n", "")
    assert service.record().run.state is RunState.CANCELLED
    assert [event.state for event in service.events()] == ["cancelled"]


def test_a_running_run_is_cancelled(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever is at it will notice."""
    asyncio.run(claimed(service))

    assert main(["cancel", "r"]) == 0

    assert capsys.readouterr().out == "r is cancelled. Its worker, host-1:20:aa, stops within seconds.\n"
    assert service.record().run.state is RunState.CANCELLED


def test_an_unknown_run_is_65(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is made of it."""
    assert main(["cancel", "another"]) == 65

    out, err = capsys.readouterr()
    assert out == ""
    assert "another" in err
    assert service.record().run.state is RunState.QUEUED


@pytest.mark.parametrize(
    ("reach", "state", "said"),
    [
        (prepared, "prepared", "is prepared: it is decided, and will be published."),
        (succeeded, "succeeded", "is succeeded already, since 2026-"),
        (failed, "failed", "is failed already, since 2026-"),
        (cancelled, "cancelled", "is cancelled already, since 2026-"),
    ],
)
def test_a_run_in_any_other_state_stays_as_it_is(
    service: Service,
    reach: Callable[[Service], Awaitable[Any]],
    state: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The message names the state, and the exit code is 1."""

    async def reached() -> None:
        await reach(service)

    asyncio.run(reached())
    before = repr(service.record())

    assert main(["cancel", "r"]) == 1

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"Error: Run 'r' {said}")
    assert err.endswith("Only a queued or running run can be cancelled.\n")
    assert repr(service.record()) == before
    assert service.record().run.state == state


# -- all that match ------------------------------------------------------------------------------


@pytest.fixture
def several(service: Service) -> Service:
    """Besides `r`, which runs by now: `q` of the same agency, `other` of another one, and `done`."""

    async def accept() -> None:
        await claimed(service)
        await service.accept("q", requested_by="billing")
        await service.accept("other", agency_id=8, labels={"team": "a"})
        await service.accept("done", agency_id=9)
        await service.runs.queue.cancel("done")

    asyncio.run(accept())
    return service


def test_runs_that_match_are_first_listed(several: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing happens without --execute, and finished runs aren't meant."""
    assert main(["cancel", "--since", "2020-01-01"]) == 0

    out, err = capsys.readouterr()
    assert [line.split()[:3] + line.split()[6:] for line in out.splitlines()[1:]] == [
        ["other", "8", "queued", "would", "be", "cancelled"],
        ["q", "7", "queued", *["billing", "would", "be", "cancelled"][1:]],
        ["r", "7", "running", *["would", "be", "cancelled,", "and", "its", "worker", "stops", "within", "seconds"]],
    ]
    assert err == ("3 runs would be cancelled. Nothing was cancelled. The same command with --execute cancels them.\n")
    assert several.record("q").run.state is RunState.QUEUED


@pytest.mark.parametrize(
    ("words", "run_ids"),
    [
        (["--agency-id", "7"], ["q", "r"]),
        (["--agency-id", "7", "--state", "queued"], ["q"]),
        (["--label", "team=a"], ["other"]),
        (["--requested-by", "billing"], ["q"]),
        (["--search", "th"], ["other"]),
        (["--until", "2020-01-01"], []),
    ],
)
def test_runs_that_match_are_cancelled(
    several: Service, words: list[str], run_ids: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Page by page."""
    monkeypatch.setattr(cancel, "_PAGE", 1)

    assert main(["cancel", *words, "--execute", "-o", "json"]) == 0

    out, err = capsys.readouterr()
    shown = [json.loads(line) for line in out.splitlines()]
    assert [each["run_id"] for each in shown] == run_ids
    assert all(each["cancelled"] and each["state"] == "cancelled" for each in shown)
    assert all(each["queued_at"].endswith("Z") for each in shown)  # as `history` writes it
    assert ("Nothing to do" in err) == (not run_ids)
    cancelled = {each for each in ("q", "r", "other") if several.record(each).run.state is RunState.CANCELLED}
    assert cancelled == set(run_ids)


def test_who_interrupts_it_learns_how_far_it_came(
    several: Service, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """And that the rest can be cancelled."""
    pages: list[object] = []

    def interrupted_later(page: object, **_: object) -> None:
        pages.append(page)
        if len(pages) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(cancel, "_PAGE", 1)
    monkeypatch.setattr(tables, "print_items", interrupted_later)

    assert main(["cancel", "--since", "2000-01-01", "--execute"]) == 130

    assert "1 run cancelled, and perhaps some more. The same command cancels the rest." in capsys.readouterr().err
    assert [several.record(each).run.state for each in ("q", "r", "other")].count(RunState.CANCELLED) == 2


def test_a_run_that_is_decided_meanwhile_is_left(several: Service, between: Between, capsys: Captured) -> None:
    """And said."""

    async def decide() -> None:
        claim = await several.runs.queue.claim(worker="w", lease=LEASE, max_runs_per_agency=2, run_id="q")
        assert claim is not None
        await several.runs.attempts.prepare(claim, PLAN, Outcome())

    between.on_next("cancel", after(decide))

    assert main(["cancel", "--requested-by", "billing", "--execute"]) == 0

    out, err = capsys.readouterr()
    assert "nothing: it was decided meanwhile" in out
    assert err == "0 runs cancelled. 1 run had been decided meanwhile.\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["r", "--agency-id", "7"], "leave out the filters"),
        (["--execute"], "name a run, or say which runs"),
        (["--state", "failed"], "failed runs can't be cancelled"),
        (["--label", "x"], "KEY=VALUE"),
    ],
)
def test_wrong_usage_is_64(several: Service, words: list[str], said: str, capsys: Captured) -> None:
    """And nothing is cancelled."""
    assert main(["cancel", *words]) == 64
    assert said in capsys.readouterr().err
    assert several.record().run.state is RunState.RUNNING


# -- races ---------------------------------------------------------------------------------------


def test_a_run_that_begins_meanwhile_is_cancelled_all_the_same(
    service: Service, between: Between, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was queued when it was looked at."""

    async def begun() -> None:
        await claimed(service)

    between.on_next("cancel", after(begun))

    assert main(["cancel", "r"]) == 0
    assert "host-1:20:aa" in capsys.readouterr().out


def test_a_run_that_is_decided_meanwhile_isnt_cancelled(
    service: Service, between: Between, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the history answers counts, not what it said before."""

    async def decided() -> None:
        await prepared(service)

    between.on_next("cancel", after(decided))

    assert main(["cancel", "r"]) == 1
    assert "is prepared" in capsys.readouterr().err


def test_one_run_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither none nor two."""
    assert main(["cancel"]) == 64
    assert main(["cancel", "a", "b"]) == 64
