"""`webhooks redeliver` on the in-memory run table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
import typer

from pipeline_processing.cli import webhooks
from pipeline_processing.cli.common import complete
from pipeline_processing.errors import RunUnknown
from pipeline_processing.history.memory.store import memory_run_store
from pipeline_processing.history.memory.table import RunTable
from pipeline_processing.runs.deliveries import Tried
from pipeline_processing.runs.store import RunStore
from pipeline_processing.settings.settings import Settings
from tests.unit.in_memory import incoming
from tests.unit.stepped_clock import SteppedClock

ALL = ("succeeded", "failed", "cancelled")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """A history in which `billing` refused the event of `r` for good, and `chat` accepted it."""
    store = memory_run_store(RunTable(clock=SteppedClock()))

    async def notify() -> None:
        await store.deliveries.configure({"billing": ALL, "chat": ALL})
        await store.intake.accept(incoming("r"))
        await store.queue.cancel("r")
        for webhook, tried in (("billing", Tried(410, "gone")), ("chat", Tried(200))):
            (due,) = await store.deliveries.claim(webhook, limit=1, lease=timedelta(minutes=1))
            await store.deliveries.record(due, tried)

    asyncio.run(notify())

    @asynccontextmanager
    async def opened(settings: Settings) -> AsyncIterator[RunStore]:
        yield store

    monkeypatch.setattr("pipeline_processing.app.history.run_store", opened)
    monkeypatch.setattr(webhooks, "current_settings", Settings)
    return store


@pytest.mark.parametrize(
    ("arguments", "said", "due"),
    [
        (["--failed"], "1 event will be sent again", ["billing"]),
        (["--failed", "--webhook", "chat"], "0 events will be sent again", []),
        (["r"], "2 events will be sent again", ["billing", "chat"]),
        (["r", "--webhook", "chat"], "1 event will be sent again", ["chat"]),
        (["r", "--webhook", "chat", "--json"], '{"events":1}', ["chat"]),
    ],
)
def test_events_are_due_again(
    store: RunStore, arguments: list[str], said: str, due: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Those given up, or those of a run; `serve` sends them."""
    complete(webhooks.app)(["redeliver", *arguments], standalone_mode=False)

    assert said in capsys.readouterr().out
    deliveries = asyncio.run(_of_run(store))
    assert [webhook for webhook, state in deliveries if state == "pending"] == due


async def _of_run(store: RunStore) -> list[tuple[str, str]]:
    return [(each.webhook, each.state) for each in await store.deliveries.of_run("r")]


def test_an_unknown_run_is_an_error(store: RunStore) -> None:
    """Exit code 65."""
    with pytest.raises(RunUnknown):
        complete(webhooks.app)(["redeliver", "nobody"], standalone_mode=False)


@pytest.mark.parametrize(("run_id", "failed"), [(None, False), ("r", True)])
def test_what_to_send_must_be_told(store: RunStore, run_id: str | None, failed: bool) -> None:
    """A run, or all that failed."""
    with pytest.raises(typer.BadParameter, match="--failed"):
        webhooks.redeliver(run_id, failed)
