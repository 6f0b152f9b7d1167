"""All destinations of a job as one: each artifact, upload and question goes to the one that it belongs to."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import Any
from uuid import UUID, uuid4

import pytest

from pipeline_processing.destinations.installation import INSTALLATION_KEY
from pipeline_processing.destinations.memory.destination import MemoryDestination
from pipeline_processing.destinations.null.destination import NullDestination
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.errors import DestinationUnavailable, ForeignPrefix, SettingsError
from pipeline_processing.model import Artifact, Compression, FormatName, InlineContent, Plan, UploadRef
from tests.unit.in_memory import INSTALLATION, Between, Interposed, refused
from tests.unit.memory_tables import MemoryTables

DOWN = DestinationUnavailable("the destination is down")
METADATA = {"run-id": "r", "attempt": "1"}


class Three:
    """Tables, named first, and two that hold objects."""

    def __init__(self) -> None:
        self.tables = MemoryTables()
        self.first = MemoryDestination(url="memory://first")
        self.second = MemoryDestination(url="memory://second")
        self.all = Destinations([self.tables, self.first, self.second])


@pytest.fixture
def three() -> Three:
    return Three()


def artifact(destination: str = "", *, key: str = "a") -> Artifact:
    return Artifact(
        key=key,
        dataset="records",
        format=FormatName.NDJSON,
        compression=Compression.NONE,
        rows=1,
        size=3,
        sha256=hashlib.sha256(b"{}\n").hexdigest(),
        staged=InlineContent(content=b64encode(b"{}\n").decode()),
        destination=destination,
    )


def plan(*destinations: str, of: str = "memory://first") -> Plan:
    return Plan(
        destination=of,
        artifacts=tuple(artifact(each) for each in destinations),
        metadata=METADATA,
        manifest_key="m",
        manifest="{}",
    )


async def test_the_primary_holds_the_manifests(three: Three) -> None:
    """The first with objects, though tables come before it. Where nothing is published there is no store of them."""
    await three.all.manifests.publish("m", b"{}", metadata=METADATA)

    assert await three.all.manifests.exists("m")
    assert (list(three.first.objects), list(three.second.objects)) == (["m"], [])
    with pytest.raises(AssertionError, match="null: holds no manifests"):
        _ = Destinations([NullDestination()]).manifests


def test_the_first_that_holds_no_tables_is_the_primary(three: Three) -> None:
    """The manifest stands there, wherever else rows go."""
    assert three.all.primary is three.first
    assert three.all.objects == (three.first, three.second)
    assert three.all.tables == (three.tables,)
    assert three.all.all == (three.tables, three.first, three.second)


def test_two_of_one_place_are_refused() -> None:
    """Their artifacts would have one key; the message names them and tells what to do."""
    with pytest.raises(SettingsError, match=r"same place: memory://a, memory://b, memory://a.*another buck") as raised:
        Destinations([MemoryDestination(url=f"memory://{name}") for name in "aba"])

    assert raised.value.exit_code == 78


def test_what_is_here(three: Three) -> None:
    """By URL; what was recorded without one is the primary's, from the time when there was only one."""
    assert all(three.all.holds(url) for url in ("", "memory://first", "memory://second", "memory://tables"))
    assert not three.all.holds("memory://elsewhere")


def test_what_a_plan_needs_and_is_not_here(three: Three) -> None:
    """Each place once: that of the manifest, and those of the artifacts."""
    assert three.all.missing(plan("", "memory://second", "memory://tables")) == []
    assert three.all.missing(plan("memory://x", "memory://first", "memory://x", "memory://y")) == [
        "memory://x",
        "memory://y",
    ]
    assert three.all.missing(plan("", of="memory://old")) == ["memory://old"]


def test_urls_of_objects(three: Three) -> None:
    """Where each stands."""
    assert three.all.url(artifact("memory://second", key="k")) == "memory://second/k"
    assert three.all.url(artifact("", key="k")) == "memory://first/k"


@pytest.mark.parametrize(
    ("destination", "place"), [("memory://first", "first"), ("memory://second", "second"), ("", "first")]
)
async def test_an_artifact_is_completed_and_deleted_where_it_belongs(
    three: Three, destination: str, place: str
) -> None:
    """One without a destination is of an older version's plan, which had one destination."""
    await three.all.complete(artifact(destination), metadata=METADATA)
    there = {name for name in ("first", "second", "tables") if getattr(three, name).objects}
    assert there == {place}

    await three.all.delete(artifact(destination), metadata=METADATA)
    assert getattr(three, place).objects == {}


async def test_an_upload_is_aborted_where_it_is(three: Three) -> None:
    """Though another destination may have one with the same handle; without a destination it is the primary's."""
    for each in (three.first, three.second, three.tables):
        each.start("k")
    assert three.first.open_uploads == three.second.open_uploads

    await three.all.abort(UploadRef(key="k", upload_id="upload-1", destination="memory://second"))
    assert [len(each.open_uploads) for each in (three.first, three.second, three.tables)] == [1, 0, 1]
    await three.all.abort(UploadRef(key="k", upload_id="upload-1"))
    assert [len(each.open_uploads) for each in (three.first, three.second, three.tables)] == [0, 0, 1]


async def test_all_are_verified_and_marked(three: Three) -> None:
    """None of them may be another installation's."""
    await three.all.verify_installation(INSTALLATION)
    assert all(INSTALLATION_KEY not in each.objects for each in three.all.all)  # type: ignore[attr-defined]  # in memory

    await three.all.mark_installation(INSTALLATION)
    assert all(INSTALLATION_KEY in each.objects for each in three.all.all)  # type: ignore[attr-defined]  # in memory
    await three.all.verify_installation(INSTALLATION)


@pytest.mark.parametrize("place", ["first", "second", "tables"])
async def test_one_that_is_somebody_elses_is_enough(three: Three, place: str) -> None:
    """Whichever it is."""
    foreign: UUID = uuid4()
    await getattr(three, place).mark_installation(foreign)

    with pytest.raises(ForeignPrefix):
        await three.all.verify_installation(INSTALLATION)
    with pytest.raises(ForeignPrefix):
        await three.all.mark_installation(INSTALLATION)


async def test_errors_are_those_of_the_destination(three: Three) -> None:
    """As they are."""
    between = Between()
    interposed: Any = Interposed(three.second, between)
    destinations = Destinations([three.first, interposed])
    between.on_next("complete", refused(DOWN))

    with pytest.raises(DestinationUnavailable) as raised:
        await destinations.complete(artifact("memory://second"), metadata=METADATA)

    assert raised.value is DOWN
