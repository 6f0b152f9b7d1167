"""The triggers, and the windows that are open."""

from __future__ import annotations

import asyncio
from typing import Any

from pipeline_processing.messaging.port import Outgoing
from pipeline_processing.model import JobRequest
from pipeline_processing.triggers.topics import app_id_of, changelog_of
from pipeline_processing.triggers.windows import AgencyWindows, OfTrigger, Window
from tests.unit.board.asking import ask
from tests.unit.board.conftest import NAMES, Parts
from tests.unit.board.history import at
from tests.unit.virtual_clock import in_virtual_time

TOPIC = changelog_of(app_id_of(NAMES))


def put(parts: Parts, agency_id: int, **due_at: float | None) -> None:
    """Store an agency's windows: trigger → when its window closes, None for a closed one."""
    triggers = {
        name: OfTrigger(
            window=None
            if due is None
            else Window(
                request=JobRequest(agency_id=agency_id, run_id=f"{name}-{agency_id}", params={"secret": "h1dden"}),
                events=3,
                opened=1,
                opened_at=at(0),
                last_at=at(1),
                due_at=at(due),
                latest_at=None,
                topic="agencies",
            )
        )
        for name, due in due_at.items()
    }
    state = AgencyWindows(agency_id=agency_id, triggers=triggers)
    parts.broker.put(Outgoing(TOPIC, str(agency_id).encode(), state.write()))


async def shown(parts: Parts) -> list[Any]:
    await asyncio.sleep(1.5)  # a shared answer is older then, and what was put is read
    answer = await ask(parts.app(), "/api/v1/triggers")
    assert answer.status == 200, answer.body
    assert b"h1dden" not in answer.body
    found: list[Any] = answer.json["triggers"]
    return found


@in_virtual_time
async def test_without_windows_the_triggers_are_shown(parts: Parts) -> None:
    """In the file's order. The topic doesn't exist before `triggers` has run."""
    updated, nightly = await shown(parts)

    assert (updated["name"], updated["topic"], updated["windows"]) == ("updated", "agencies", [])
    assert "once no event has come for 10" in updated["debounce"]
    assert (nightly["schedule"], nightly["next_at"]) == ("0 3 * * * in UTC", "2026-01-19T03:00:00Z")
    assert nightly["datasets"] == ["records"]
    parts.windows.close()
    await asyncio.sleep(0)


@in_virtual_time
async def test_open_windows_are_shown_while_they_are_open(parts: Parts) -> None:
    """Those that close first come first. A trigger that isn't in the file any more is shown by its name."""
    parts.broker.create(TOPIC)
    put(parts, 7, updated=20)
    put(parts, 8, updated=10, old=30)
    put(parts, 9, updated=None)
    parts.broker.put(Outgoing(TOPIC, b"10", b"not a state"))

    updated, _, old = await shown(parts)

    assert [each["agency_id"] for each in updated["windows"]] == ["8", "7"]
    assert updated["windows"][0] == {
        "agency_id": "8",
        "run_id": "updated-8",
        "events": 3,
        "opened_at": "2026-01-18T12:00:00Z",
        "last_event_at": "2026-01-18T12:00:01Z",
        "fires_at": "2026-01-18T12:00:10Z",
    }
    assert (old["name"], old["windows_open"]) == ("old", 1)

    put(parts, 8, updated=None, old=30)
    parts.broker.put(Outgoing(TOPIC, b"7", None))
    updated, *_ = await shown(parts)
    assert updated["windows"] == []
    parts.windows.close()
    await asyncio.sleep(0)


@in_virtual_time
async def test_an_outage_is_a_problem_and_passes(parts: Parts) -> None:
    parts.broker.create(TOPIC)
    parts.broker.outage = True
    assert (await ask(parts.app(), "/api/v1/triggers")).status == 503
    parts.broker.outage = False
    put(parts, 7, updated=20)
    await asyncio.sleep(3)
    updated, *_ = await shown(parts)
    assert updated["windows_open"] == 1
    parts.windows.close()
    await asyncio.sleep(0)
