"""What is unavailable is tried by one run at a time, so that the others keep their attempts."""

from __future__ import annotations

from typing import Any

from pipeline_processing.errors import DestinationUnavailable, PipelineError, SourceUnavailable, StepFailed
from pipeline_processing.model import RunState
from pipeline_processing.runs.failures import Attempted
from pipeline_processing.serving.breaker import DESTINATION, SOURCE, Breaker
from pipeline_processing.telemetry.health import Health, Servers
from tests.unit.in_memory import Service, refused
from tests.unit.serving.test_worker import running, states
from tests.unit.stepped_clock import SteppedClock
from tests.unit.virtual_clock import in_virtual_time

GONE = SourceUnavailable("gone")
AWAY = DestinationUnavailable("away")


class Judged:
    """A breaker, and attempts that end."""

    def __init__(self) -> None:
        self.clock = SteppedClock()
        self.servers = Servers(clock=self.clock)
        self.health = Health(pulses=[], servers=self.servers)
        self.breaker = Breaker(self.servers.of_runs, clock=self.clock, note=self.health.note)

    def attempt(self, error: PipelineError | None = None, *, decided: bool = False, dry_run: bool = False) -> None:
        self.ended(error, tries=self.breaker.started(), decided=decided, dry_run=dry_run)

    def ended(self, error: PipelineError | None, *, tries: bool, decided: bool = False, dry_run: bool = False) -> None:
        run: Any = _Run(RunState.SUCCEEDED if error is None else RunState.QUEUED, dry_run)
        self.breaker.ended(Attempted(run, error), tries=tries, decided=decided)

    def up(self) -> dict[str, float]:
        return {name: up for up, (name,) in self.servers.readings()}


class _Run:
    def __init__(self, state: RunState, dry_run: bool) -> None:
        self.state, self.dry_run = state, dry_run


def test_it_opens_after_three_failures_in_a_row() -> None:
    """Of the same server: a success in between says that it works, and another error says nothing."""
    it = Judged()
    for error in (GONE, GONE, None, GONE, AWAY, StepFailed("x"), GONE):
        it.attempt(error)
    assert it.breaker.admits()
    it.attempt(GONE)
    assert not it.breaker.admits()
    assert it.up() == {"kafka": 1, "history": 1, "destination": 1, "source": 0}
    assert it.health.notes == ["the source can't be used, so one run at a time tries it: gone"]
    assert it.health.not_ready() == ["starting"]  # nothing of it: another process would do no better


def test_what_no_run_has_tried_lately_is_not_known() -> None:
    """No run is due, or other workers take them: the server may be back, and nobody need be woken."""
    it = Judged()
    for error in (GONE, AWAY):
        for _ in range(3):
            it.attempt(error)
    it.clock.pass_(200)
    it.attempt(AWAY)
    it.clock.pass_(200)
    assert it.up() == {"kafka": 1, "history": 1, "destination": 0}
    it.clock.pass_(200)
    assert it.up() == {"kafka": 1, "history": 1}
    it.attempt()
    assert it.up() == {"kafka": 1, "history": 1, "destination": 1, "source": 1}


def test_one_run_at_a_time_tries_after_a_pause() -> None:
    """The pauses grow to half a minute at most."""
    it = Judged()
    for _ in range(3):
        it.attempt(AWAY)
    for _ in range(10):
        it.clock.pass_(30)
        assert it.breaker.admits()
        assert it.breaker.started()
        assert not it.breaker.admits()
        it.breaker.ended(None, tries=True, decided=False)  # nothing is known: the next one may try
        assert it.breaker.admits()
        it.attempt(AWAY)
        assert not it.breaker.admits()


def test_one_blip_is_one_failure() -> None:
    """However many runs it cuts off, the first one to try starts a second later."""
    it = Judged()
    cut_off = [it.breaker.started() for _ in range(32)]
    for tries in cut_off:
        it.ended(GONE, tries=tries)
    assert not it.breaker.admits()
    it.clock.pass_(1)
    assert it.breaker.admits()


def test_runs_that_began_before_are_none_that_try() -> None:
    """However they end, the one that tries is waited for; but not for hours."""
    it = Judged()
    early = it.breaker.started()
    for _ in range(3):
        it.attempt(GONE)
    it.clock.pass_(5)
    it.breaker.started()
    it.breaker.ended(None, tries=early, decided=False)
    assert not it.breaker.admits()
    it.clock.pass_(120)
    assert it.breaker.admits()


def test_a_success_closes_it() -> None:
    """If it used the server: a decided run reads no rows, and a dry run writes none."""
    it = Judged()
    for error in (GONE, AWAY):
        for _ in range(3):
            it.attempt(error)
    it.attempt(decided=True)
    assert it.up()[SOURCE] == 0
    assert it.up()[DESTINATION] == 1
    it.attempt(dry_run=True)
    assert it.breaker.admits()
    assert it.health.notes == []
    for _ in range(3):
        it.attempt(AWAY)
    it.attempt(dry_run=True)
    assert not it.breaker.admits()


@in_virtual_time
async def test_most_waiting_runs_are_not_touched_by_an_outage() -> None:
    """Sixty runs wait for ten minutes. None has more than two attempts; afterwards all succeed."""
    service = Service()
    for agency_id in range(1, 61):
        await service.accept(f"r{agency_id}", agency_id=agency_id)
    service.between.on_every("snapshot", refused(GONE))

    async with running(service, concurrency=8) as it:
        await service.clock.sleep(10 * 60)
        attempts = {run.run_id: run.attempt for run in await service.runs.history.newest(limit=1000)}
        attempted = sum(attempts.values())
        assert it.health.notes
        service.between.on_every("snapshot", None)
        await service.clock.sleep(120)
        assert it.health.notes == []

    assert set((await states(service)).values()) == {RunState.SUCCEEDED}
    # The eight that found out; then one every 15 to 30 s. Without the breaker, there are a thousand.
    assert max(attempts.values()) <= 2
    assert attempted < 8 + 10 * 60 / 15 + 8
