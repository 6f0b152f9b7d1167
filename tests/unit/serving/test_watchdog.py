"""The watchdog tells which step keeps an event loop from running, once."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from pipeline_processing.aio.own_thread import OwnThread, StepPlace
from pipeline_processing.aio.side_loop import SideLoop
from pipeline_processing.serving import watchdog as watchdog_module
from pipeline_processing.serving.watchdog import Watchdog
from pipeline_processing.steps.own_loop import OwnLoop
from pipeline_processing.telemetry.health import SILENT_SECONDS
from pipeline_processing.telemetry.logs import bound_run
from tests.unit.in_memory import Call, Service, job
from tests.unit.steps import record_models

PATIENCE = 0.2
MAIN, OWN = "the event loop is blocked", "an async function blocks its own event loop"
STANDSTILL, AT_WORK = "no thread of this process ran", "this step was running"
DEADLINE = 30.0

Log = list[MutableMapping[str, Any]]


@pytest.fixture
def log() -> Iterator[Log]:
    with capture_logs(processors=[merge_contextvars]) as lines:
        yield lines


def said(log: Log, event: str) -> Log:
    return [line for line in log if line["event"].startswith(event)]


def blocked_until(condition: Callable[[], object]) -> None:
    """Without letting the event loop run."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def waited_until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110  # nothing can tell it
            await asyncio.sleep(0.01)


@asynccontextmanager
async def watched() -> AsyncIterator[Watchdog]:
    """This event loop, for the length of the block."""
    async with SideLoop() as side:
        watchdog = Watchdog(patience=PATIENCE)
        watching = side.start(watchdog.watch())
        try:
            yield watchdog
        finally:
            watching.cancel()


async def test_a_blocked_event_loop_is_told_once(log: Log) -> None:
    """However long it lasts; and again when it happens again."""
    async with watched():
        for times in (1, 2):
            blocked_until(lambda: len(said(log, MAIN)) == times)  # noqa: B023  # called at once
            time.sleep(PATIENCE * 2)  # noqa: ASYNC251  # it is still the same incident
            await waited_until(lambda: True)
            await asyncio.sleep(PATIENCE)  # it beats again
        assert len(said(log, MAIN)) == 2

    (line, _) = said(log, MAIN)
    assert line["log_level"] == "warning"
    assert any("blocked_until" in frame for frame in line["stack"])


async def test_every_beat_has_its_delay(log: Log) -> None:
    """From when it was asked for: as long as the loop is blocked."""
    delays: list[float] = []
    async with SideLoop() as side:
        watching = side.start(Watchdog(patience=PATIENCE, on_delay=delays.append).watch())
        await waited_until(lambda: len(delays) > 1)
        assert all(delay >= 0 for delay in delays)
        blocked_until(lambda: len(said(log, MAIN)) == 1)
        await waited_until(lambda: max(delays) >= PATIENCE / 2)
        watching.cancel()


async def test_it_names_run_dataset_and_step(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the step whose code is on the stack."""
    monkeypatch.setattr(record_models, "hook", lambda: blocked_until(lambda: said(log, MAIN)))
    service = Service(job("records", steps=[{"validate": {"model": "tests.unit.steps.record_models:Hooked"}}]))
    service.rows = {"records": [[(1, "a")]]}
    service.__post_init__()
    await service.accept("run-1")
    async with watched():
        await service.attempt()

    (line,) = said(log, MAIN)
    assert (line["run_id"], line["dataset"]) == ("run-1", "records")
    assert re.match(r"Dataset 'records', step 1 \(validate\), row 1", line["step"])


async def test_it_names_run_and_dataset_outside_steps(log: Log) -> None:
    """Such as a source that blocks; of several datasets, the one that is being read."""

    async def blocks(call: Call) -> Any:
        blocked_until(lambda: said(log, MAIN))
        return await call()

    service = Service(job("small", "large"))
    service.between.on_next("batch", None, None, blocks)  # the second dataset's first batch
    await service.accept("run-1")
    async with watched():
        await service.attempt()

    (line,) = said(log, MAIN)
    assert (line["run_id"], line["dataset"], line.get("step")) == ("run-1", "large", None)


async def test_a_steps_own_event_loop(log: Log) -> None:
    """The line says which run it is about, as all of its lines do; an async function that waits is none."""
    may_go_on = False

    async def computes() -> None:
        blocked_until(lambda: may_go_on)

    async def waits() -> None:
        await waited_until(lambda: may_go_on)

    async with watched():
        with bound_run(run_id="run-1"):
            context = contextvars.copy_context()
        blocking = OwnLoop(StepPlace("python: shop:f", dataset="records"), context)
        waiting = OwnLoop(StepPlace("python: shop:g", dataset="records"), contextvars.copy_context())
        calls = asyncio.gather(blocking.run(computes), waiting.run(waits))
        await waited_until(lambda: said(log, OWN))
        may_go_on = True
        await calls
        for each in (blocking, waiting):
            await each.close(asyncio.sleep, 0, stop_seconds=10)

    (line,) = said(log, OWN)
    assert (line["dataset"], line["step"], line["run_id"]) == ("records", "python: shop:f", "run-1")
    assert any("computes" in frame for frame in line["stack"])


async def test_a_held_interpreter_lock(log: Log) -> None:
    """Nothing can be told meanwhile; afterwards, which steps were running is."""
    library = ctypes.PyDLL(None)  # holds the interpreter lock during a call, as slow regular expressions do
    async with watched():
        thread = OwnThread(StepPlace("python: shop:f", dataset="records"))

        def hold() -> None:
            deadline = time.monotonic() + DEADLINE
            while not said(log, AT_WORK):
                assert time.monotonic() < deadline
                library.usleep(int(3 * PATIENCE * 1_000_000))

        await thread.run(hold)
        thread.close()

    assert said(log, STANDSTILL)
    line = said(log, AT_WORK)[0]
    assert (line["dataset"], line["step"]) == ("records", "python: shop:f")
    assert not said(log, MAIN), "it is the same incident"


async def test_it_outlives_its_own_errors(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are kept only as long as it sees the loop run."""
    with monkeypatch.context() as patch:
        patch.setattr(watchdog_module, "_formatted", lambda frames: 1 / 0)
        async with watched():
            blocked_until(lambda: said(log, "the watchdog's check failed"))
            patch.undo()
            await asyncio.sleep(PATIENCE)
            blocked_until(lambda: said(log, MAIN))


async def test_a_loop_that_is_blocked_for_very_long_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `/livez` has it. It is judged from another thread, so it has to be told by the clock alone."""
    watchdog = Watchdog()
    assert not watchdog.hangs

    now = time.monotonic()
    monkeypatch.setattr(watchdog_module.time, "monotonic", lambda: now + SILENT_SECONDS + 1)
    assert watchdog.hangs
