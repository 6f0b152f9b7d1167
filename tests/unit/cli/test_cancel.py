"""`cancel` on the in-memory run table: which runs it stops, and what it says of the others."""

from __future__ import annotations

import asyncio
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
from tests.unit.in_memory import LEASE, Between, Service, after, interposed

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
    async def opened(_: Settings) -> AsyncIterator[Any]:
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
