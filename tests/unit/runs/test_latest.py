"""`_latest.json` points to the newest published manifest of a dataset, whoever publishes when."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.errors import DestinationUnavailable
from pipeline_processing.model import RunState
from tests.unit.in_memory import Service, job, lost_reply, refused
from tests.unit.virtual_clock import in_virtual_time

KEY = "agency_id=7/small/_latest.json"
DOWN = DestinationUnavailable("the destination is down")


def service() -> Service:
    return Service(config=job("small", latest=True))


def latest(place: Service) -> dict[str, Any] | None:
    """What a reader finds; the manifest that it names is there."""
    if KEY not in place.destination.objects:
        return None
    body, metadata = place.destination.objects[KEY]
    found: dict[str, Any] = json.loads(body)
    assert metadata["run-id"] == found["run_id"]
    assert found["manifest"].removeprefix("memory://destination/") in place.destination.objects
    return found


async def ran(place: Service, run_id: str) -> RunState:
    await place.accept(run_id)
    state = (await place.attempt()).run.state
    await place.clock.sleep(60)
    return state


@in_virtual_time
async def test_it_points_to_the_last_run():
    """With what a reader wants to know before it reads the manifest."""
    place = service()
    await ran(place, "a")
    first = latest(place)
    assert first is not None
    manifest = json.loads(place.destination.objects["agency_id=7/run_id=a/_manifest.json"][0])
    assert first == {
        "version": 1,
        "job": "agency_data_job",
        "agency_id": 7,
        "dataset": "small",
        "run_id": "a",
        "manifest": "memory://destination/agency_id=7/run_id=a/_manifest.json",
        "snapshot_at": manifest["snapshot_at"],
        "rows_written": 2,
        "fingerprint": manifest["datasets"][0]["schema"]["fingerprint"],
    }

    await ran(place, "b")
    second = latest(place)
    assert second is not None
    assert second["run_id"] == "b"


@in_virtual_time
async def test_only_where_it_is_asked_for():
    """Other datasets, dry runs and runs that fail leave it as it is."""
    place = Service(config=job("small"))
    assert await ran(place, "a") is RunState.SUCCEEDED
    assert latest(place) is None

    place = service()
    await place.accept("dry", dry_run=True)
    await place.attempt()
    assert latest(place) is None

    await ran(place, "b")
    place.destination.objects["agency_id=7/run_id=c/small/part-00000.ndjson"] = (b"theirs", {})
    assert await ran(place, "c") is RunState.FAILED
    found = latest(place)
    assert found is not None
    assert found["run_id"] == "b"


@in_virtual_time
@pytest.mark.parametrize("fault", [refused(DOWN), lost_reply(DOWN)])
async def test_a_run_succeeds_only_once_it_is_pointed_to(fault: Any):
    """While that fails the run stays decided, and the next worker goes on; the manifest is there before."""
    place = service()
    place.between.on_next("replace", fault)
    assert await ran(place, "a") is RunState.PREPARED
    assert "agency_id=7/run_id=a/_manifest.json" in place.destination.objects

    assert (await place.attempt(place.second)).run.state is RunState.SUCCEEDED
    found = latest(place)
    assert found is not None
    assert found["run_id"] == "a"


@in_virtual_time
@pytest.mark.parametrize("method", ["complete", "publish", "replace"])
async def test_a_late_run_does_not_turn_it_back(method: str):
    """A run that was decided before another one, and is published after it, is older."""
    place = service()
    place.max_runs_per_agency = 2
    place.first, place.second = place.executor("first", around=place.between), place.executor("second")
    if method == "publish":  # the first publication is the installation's mark
        await ran(place, "mark")
    place.between.on_next(method, refused(DOWN))
    assert await ran(place, "old") is RunState.PREPARED
    await place.accept("new")
    held = await place.second.claim(run_id="new")
    assert held is not None
    await place.second.execute(held)

    assert (await place.attempt(place.second)).run.state is RunState.SUCCEEDED

    assert {record.run.state for record in place.table.records.values()} == {RunState.SUCCEEDED}
    found = latest(place)
    assert found is not None
    assert found["run_id"] == "new"


@in_virtual_time
async def test_what_nobody_can_read_is_replaced():
    """It keeps no decided run from being published."""
    place = service()
    place.destination.objects[KEY] = (b"not ours", {})
    assert await ran(place, "a") is RunState.SUCCEEDED
    assert latest(place) is not None


def test_tables_have_no_place_for_it():
    """Nor for its manifest as an object."""
    config = job("small", latest=True).model_dump(mode="json", by_alias=True, exclude_defaults=True)
    config["datasets"][0]["source"] = {"postgres": {"query": "SELECT 1 AS a", "args": []}}
    with pytest.raises(ValidationError, match="needs an s3 or file destination"):
        AgencyJobConfig.model_validate({**config, "destinations": [{"postgres": {"dsn": "warehouse"}}]})
