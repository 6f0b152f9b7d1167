"""Which runs the history lists, and in which order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from pipeline_processing.model import RunState
from pipeline_processing.runs.run_filter import RunFilter, RunPlace
from pipeline_processing.runs.store import RunStore
from tests.contract.run_store.conftest import Backend
from tests.contract.run_store.helpers import FAILURE, accepted, claimed, incoming

FAR = datetime(2200, 1, 1, tzinfo=UTC)
TEAM, OTHER_TEAM, QUOTED = {"team": "a"}, {"team": "b"}, {"team": "a", "note": 'Zürich, "%_\\" A'}
OTHER_FAILURE = FAILURE.model_copy(update={"kind": "query_failed"})


async def some_runs(runs: RunStore) -> None:
    """Six runs of two agencies: two have failed, one is cancelled, one running, and two are queued."""
    await accepted(runs, "r-0", agency_id=1)
    await accepted(runs, "r-1", agency_id=2, labels=TEAM)
    await accepted(runs, "r-2", agency_id=1, labels=QUOTED, requested_by="portal")
    await accepted(runs, "r_3", agency_id=2, labels=OTHER_TEAM, requested_by="portal")
    await accepted(runs, "R-4", agency_id=1, requested_by="it's me")
    await accepted(runs, "r-5", agency_id=2)
    await runs.attempts.fail(await claimed(runs, "r-1"), FAILURE)
    await runs.attempts.fail(await claimed(runs, "r-2"), OTHER_FAILURE)
    await runs.queue.cancel("r_3")
    await claimed(runs, "r-0")


async def test_runs_are_filtered(runs: RunStore) -> None:
    """By each field, and by all of them together. Values are compared as they are, not as patterns."""
    await some_runs(runs)

    async def found(**fields: object) -> list[str]:
        return [run.run_id for run in await runs.history.newest(RunFilter(**fields))]  # type: ignore[arg-type]

    assert await found() == ["r-5", "R-4", "r_3", "r-2", "r-1", "r-0"]
    assert await found(agency_id=2) == ["r-5", "r_3", "r-1"]
    assert await found(states=(RunState.FAILED,)) == ["r-2", "r-1"]
    assert await found(states=(RunState.RUNNING, RunState.CANCELLED)) == ["r_3", "r-0"]
    assert await found(labels=TEAM) == ["r-2", "r-1"]
    assert await found(labels=QUOTED) == ["r-2"]
    assert await found(labels={"team": "A"}) == []
    assert await found(labels={"unknown": ""}) == []
    assert await found(error_kinds=(FAILURE.kind,)) == ["r-1"]
    assert await found(error_kinds=(FAILURE.kind, OTHER_FAILURE.kind, "step_failed")) == ["r-2", "r-1"]
    assert await found(requested_by="portal") == ["r_3", "r-2"]
    assert await found(requested_by="it's me") == ["R-4"]
    assert await found(text="r-") == ["r-5", "r-2", "r-1", "r-0"]
    assert await found(text="_") == ["r_3"]
    assert await found(text="%") == []
    assert await found(since=FAR) == []
    assert await found(agency_id=1, states=(RunState.FAILED,), labels=TEAM, text="2", until=FAR) == ["r-2"]
    assert await found(agency_id=2, states=(RunState.FAILED,), labels=OTHER_TEAM) == []


async def test_a_list_goes_from_one_moment_to_before_another(backend: Backend) -> None:
    """So that two spans that meet have every run once."""
    moments = []
    for number in range(4):
        moments.append((await accepted(backend.runs, f"r-{number}")).queued_at)
        await backend.age(f"r-{number}", 1)

    async def found(since: datetime | None, until: datetime) -> list[str]:
        return [run.run_id for run in await backend.runs.history.newest(RunFilter(since=since, until=until))]

    assert await found(moments[1], moments[3]) == ["r-2", "r-1"]
    assert await found(None, moments[1]) == ["r-0"]
    assert await found(moments[3], moments[3]) == []


async def test_a_list_is_read_page_by_page(runs: RunStore) -> None:
    """Each run once, although others are accepted meanwhile."""
    await runs.intake.accept_all([incoming(f"r-{number}", agency_id=1 + number % 2) for number in range(9)])
    wanted, pages = RunFilter(agency_id=1), []
    while page := await runs.history.newest(wanted, limit=2):
        pages.append([run.run_id for run in page])
        wanted = replace(wanted, after=RunPlace.of(page[-1]))
        await accepted(runs, f"later-{len(pages)}", agency_id=1)

    assert pages == [["r-8", "r-6"], ["r-4", "r-2"], ["r-0"]]
    assert await runs.history.newest(RunFilter(after=RunPlace(FAR, "gone")), limit=1) != []
