"""How checks become findings."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from pipeline_processing.doctor import checking
from pipeline_processing.doctor.checking import Advice, Check, Finding, Shortfall, Skipped, examined
from pipeline_processing.errors import AccessDenied, SourceUnavailable


def check(name: str, outcome: str | Exception) -> Check[None]:
    async def run(_: None) -> str:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return Check(name, run, cost="it costs", remedy="do it")


async def states(checks: Sequence[Check[None]]) -> list[tuple[str, int]]:
    return [(each.state, each.exit_code) for each in await examined("server", checks, None)]


async def test_each_outcome_is_a_state() -> None:
    """Costs and remedies belong to what is missing."""
    found = await examined(
        "server",
        [
            check("a", "fine"),
            check("b", Shortfall("gone")),
            check("c", Advice("slow", remedy="this")),
            check("d", Skipped("why")),
            check("e", AccessDenied("no. Grant it.")),
        ],
        None,
    )
    assert found == [
        Finding("server", "a", "ok", "fine"),
        Finding("server", "b", "missing", "gone", "it costs", "do it", 78),
        Finding("server", "c", "advice", "slow", "it costs", "this", 0),
        Finding("server", "d", "skipped", "why"),
        Finding("server", "e", "missing", "no. Grant it.", "it costs", "", 77),
    ]


async def test_a_server_that_can_not_be_used_is_asked_no_further() -> None:
    """If the first check fails, or the server goes away."""
    rest = [check("x", "fine"), check("y", "fine")]
    skipped = ("skipped", 0)
    assert await states([check("a", AccessDenied("no")), *rest]) == [("missing", 77), skipped, skipped]
    gone = check("b", SourceUnavailable("gone"))
    assert await states([check("a", "fine"), gone, *rest]) == [("ok", 0), ("missing", 69), skipped, skipped]
    denied = check("b", AccessDenied("no"))
    assert await states([check("a", "fine"), denied, *rest]) == [("ok", 0), ("missing", 77), ("ok", 0), ("ok", 0)]


async def test_a_silent_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as one that can't be reached."""

    async def silent(_: None) -> str:
        await asyncio.Event().wait()
        return ""

    monkeypatch.setattr(checking, "_SECONDS", 0.01)
    assert await states([Check("a", silent, cost="c")]) == [("missing", 69)]
