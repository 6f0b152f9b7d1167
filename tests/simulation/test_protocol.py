"""
The run protocol holds its promises whatever goes wrong, by simulation: thousands of short lives of a few runs and
workers, each drawn from its seed alone. A life that breaks a promise prints its seed and what happened in it;
`live(seed)` lives it again, and `python -m tests.simulation 0 10000` lives many more.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from pipeline_processing.model import RunState
from tests.simulation.world import World
from tests.unit.virtual_clock import VirtualLoop

LIVES = 40
"""Per test."""


def live(seed: int) -> World:
    """One life; how the world was at its end. Raises AssertionError with all that happened."""
    world = World(seed)
    try:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.get_loop().set_exception_handler(lambda loop, context: None)  # the first error says it all
            runner.run(world.live())
    except Exception as error:
        happened = "\n".join(world.trace[-150:])
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}\n{world.chances}\n{happened}") from error
    return world


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    without_logs()
    yield
    structlog.reset_defaults()


def without_logs() -> None:
    """Those of thousands of lives would take most of the time."""
    structlog.configure(processors=[_dropped])


def _dropped(logger: object, method: str, event: object) -> Any:
    raise structlog.DropEvent


FIRST = [*range(0, 4 * LIVES, LIVES), *(pytest.param(n * LIVES, marks=pytest.mark.long) for n in range(4, 50))]


@pytest.mark.parametrize("first", FIRST)
def test_every_life_keeps_the_promises(first: int) -> None:
    """See `promises.py` for what is watched."""
    for seed in range(first, first + LIVES):
        live(seed)


def test_a_seed_is_a_life() -> None:
    """The same seed, the same events: else a failure could not be looked into."""
    for seed in range(5):
        assert live(seed).trace == live(seed).trace


def test_lives_are_eventful() -> None:
    """Every kind of end, and of attempt, is met often enough for the promises to mean something."""
    ends: Counter[str] = Counter()
    for seed in range(10_100, 10_100 + 3 * LIVES):
        world = live(seed)
        ends[f"destinations: {len(world.destinations)}"] += 1
        for record in world.table.records.values():
            ends.update([record.run.state.value, *(attempt.outcome for attempt in record.attempts)])
        ends.update(refused=world.kafka.refused, asked_again=len(world.kafka.asked_again))
        ends.update(letters_refused=world.letters.refused)
        told = Counter(stored.event.run_id for stored in world.kafka.completions)
        ends.update(told_again=sum(times > 1 for times in told.values()))
    assert all(ends[state] >= 5 for state in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)), ends
    assert all(ends[outcome] >= 5 for outcome in ("lost", "retrying", "handed_back")), ends
    assert ends["voided"] >= 1, ends
    assert all(ends[f"destinations: {number}"] >= 5 for number in (1, 2, 3)), ends
    assert all(ends[trouble] >= 5 for trouble in ("refused", "asked_again", "told_again", "letters_refused")), ends
