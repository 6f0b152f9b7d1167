"""A plan is decided once, and from it the same objects become visible whoever publishes them, and however often."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.agency_data_job.processor import DatasetExport, Export
from pipeline_processing.aio.asking import Server
from pipeline_processing.destinations.installation import INSTALLATION_KEY
from pipeline_processing.errors import (
    AccessDenied,
    DestinationChanged,
    DestinationUnavailable,
    HistoryUnavailable,
    SettingsError,
    Superseded,
)
from pipeline_processing.model import Bill, Compression, DatasetCounts, DatasetSchema, FormatName, JobRequest, RunState
from pipeline_processing.plan import (
    Artifact,
    InlineContent,
    MultipartUpload,
    Plan,
    Staged,
    StagedFile,
    StagedTable,
    UploadRef,
)
from pipeline_processing.runs.publication import Publisher, decide, outcome_of
from pipeline_processing.runs.store import Claim
from pipeline_processing.telemetry.masking import Mask
from tests.memory.destination import MemoryDestination
from tests.unit.in_memory import INLINE_LIMIT, LEASE, Between, Service, after, interposed, job, lost_reply, refused
from tests.unit.memory_tables import MemoryTables
from tests.unit.virtual_clock import EPOCH, in_virtual_time

URL = "s3://exports/agencies"
REQUEST = JobRequest(agency_id=7, requested_by="trigger:é", labels={"order": "A 17"})
CONTEXT = RunContext(run_id="r", attempt=3, trace_id="ab" * 16, request=REQUEST, config_id="c0" * 16)
BILL = Bill(client_cpu_ms=12.5, database_ms=3.25, bytes_read=900, bytes_written=700, s3_requests=11)
DOWN = DestinationUnavailable("the destination is down")
HISTORY_DOWN = HistoryUnavailable("the history is down")

# -- decide --------------------------------------------------------------------------------------


def exported(name: str, staged: Staged, *, read: int, filtered: int, size: int) -> DatasetExport:
    """One dataset of an export."""
    written = read - filtered
    return DatasetExport(
        counts=DatasetCounts(name=name, rows_read=read, rows_written=written, rows_filtered=filtered),
        artifacts=(
            Artifact(
                key=f"agency_id=7/run_id=r/{name}/part-00000.csv.gz",
                dataset=name,
                format=FormatName.CSV,
                compression=Compression.GZIP,
                rows=written,
                size=size,
                sha256=hashlib.sha256(name.encode()).hexdigest(),
                staged=staged,
                destination=URL,
            ),
        ),
        seconds={"source": 0.25, "upload": 0.5},
        schema=SCHEMA if name == "a" else None,
    )


SCHEMA = DatasetSchema.of([("id", "integer"), ("tags", "text[]"), ("more", None)])
INLINE = InlineContent(content="")
EXPORT = Export(
    snapshot_at=EPOCH,
    datasets=(
        exported("a", INLINE, read=10, filtered=1, size=100),
        exported("b", MultipartUpload(upload_id="b-1", parts=()), read=20, filtered=2, size=200),
        exported("c", INLINE, read=0, filtered=0, size=0),
        exported("d", StagedFile(path=".staging/d-1"), read=40, filtered=4, size=400),
    ),
)


def billed(planned_requests: int) -> Bill:
    return BILL


def test_a_plan_completes_what_can_be_lost_before_what_cant() -> None:
    """Uploads and staged files before inline content, each in the order of the job config."""
    plan, _ = decide(CONTEXT, EXPORT, destination_url=URL, now=EPOCH, bill=billed)
    assert [artifact.dataset for artifact in plan.artifacts] == ["b", "d", "a", "c"]
    assert plan.destination == URL
    run = {"run-id": "r", "agency-id": "7", "attempt": "3", "trace-id": "ab" * 16}
    assert plan.metadata == run | {"requested-by": "trigger%3A%C3%A9", "labels": "order=A%2017"}


def test_a_plan_has_the_manifests_exact_bytes() -> None:
    """Datasets and entries stand in the order of the job config."""
    plan, _ = decide(CONTEXT, EXPORT, destination_url=URL, now=EPOCH + timedelta(seconds=5), bill=billed)
    assert plan.manifest_key == "agency_id=7/run_id=r/_manifest.json"
    assert plan.manifest.endswith("}\n")
    assert json.loads(plan.manifest) == {
        "version": 1,
        "job": "agency_data_job",
        "agency_id": 7,
        "run_id": "r",
        "attempt": 3,
        "trace_id": "ab" * 16,
        "config_id": "c0" * 16,
        "labels": {"order": "A 17"},
        "requested_by": "trigger:é",
        "snapshot_at": "2026-01-18T12:00:00Z",
        "created_at": "2026-01-18T12:00:05Z",
        "rows_read": 70,
        "rows_written": 63,
        "rows_filtered": 7,
        "rows_rejected": 0,
        "bill": BILL.model_dump(),
        "datasets": [
            {
                "name": name,
                "rows_read": read,
                "rows_written": written,
                "rows_filtered": filtered,
                "rows_rejected": 0,
                "schema": schema,
            }
            for name, read, written, filtered, schema in (
                ("a", 10, 9, 1, SCHEMA.model_dump(mode="json")),
                ("b", 20, 18, 2, None),
                ("c", 0, 0, 0, None),
                ("d", 40, 36, 4, None),
            )
        ],
        "entries": [
            {
                "url": f"{URL}/agency_id=7/run_id=r/{name}/part-00000.csv.gz",
                "mandatory": True,
                "dataset": name,
                "format": "csv",
                "compression": "gzip",
                "rows": rows,
                "meta": {"content_length": size},
                "sha256": hashlib.sha256(name.encode()).hexdigest(),
            }
            for name, rows, size in (("a", 9, 100), ("b", 18, 200), ("c", 0, 0), ("d", 36, 400))
        ],
        "rejected": [],
    }


def test_rejected_rows_stand_apart() -> None:
    """Their artifacts have no format to tell: they are always the same."""
    rejected = (
        EXPORT.datasets[0]
        .artifacts[0]
        .model_copy(
            update={
                "key": "agency_id=7/run_id=r/_rejected/a/part-00000.ndjson",
                "rejected": True,
                "rows": 3,
                "size": 30,
            }
        )
    )
    export = Export(snapshot_at=EPOCH, datasets=(_with(EXPORT.datasets[0], rejected),))
    plan, outcome = decide(CONTEXT, export, destination_url=URL, now=EPOCH, bill=billed)

    manifest = json.loads(plan.manifest)
    assert [entry["url"] for entry in manifest["entries"]] == [f"{URL}/agency_id=7/run_id=r/a/part-00000.csv.gz"]
    assert manifest["rejected"] == [
        {
            "url": f"{URL}/agency_id=7/run_id=r/_rejected/a/part-00000.ndjson",
            "dataset": "a",
            "rows": 3,
            "meta": {"content_length": 30},
            "sha256": hashlib.sha256(b"a").hexdigest(),
        }
    ]
    assert outcome.bytes_written == 130


def _with(dataset: DatasetExport, *more: Artifact) -> DatasetExport:
    return replace(dataset, artifacts=(*dataset.artifacts, *more))


def test_the_manifest_names_what_stands_beside_it() -> None:
    """Artifacts elsewhere are completed all the same: uploads, then inline content, tables last, each in its order."""
    datasets = []
    for dataset in EXPORT.datasets:
        (here,) = dataset.artifacts
        there = here.model_copy(
            update={"destination": "s3://second", "staged": MultipartUpload(upload_id="x", parts=())}
        )
        table = here.model_copy(update={"destination": "postgresql://wh", "staged": StagedTable(table="t"), "size": 9})
        datasets.append(replace(dataset, artifacts=(table, here, there)))
    plan, outcome = decide(
        CONTEXT, Export(snapshot_at=EPOCH, datasets=tuple(datasets)), destination_url=URL, now=EPOCH, bill=billed
    )

    assert [(artifact.dataset, artifact.destination) for artifact in plan.artifacts] == [
        ("a", "s3://second"),
        *[("b", URL), ("b", "s3://second")],
        ("c", "s3://second"),
        *[("d", URL), ("d", "s3://second")],
        *[("a", URL), ("c", URL)],
        *[(name, "postgresql://wh") for name in "abcd"],
    ]
    alone, its_outcome = decide(CONTEXT, EXPORT, destination_url=URL, now=EPOCH, bill=billed)
    assert plan.manifest == alone.manifest
    assert (outcome.bytes_written, outcome.datasets) == (700, its_outcome.datasets)


@pytest.mark.parametrize(
    ("until", "covered"),
    [
        (None, EPOCH),
        (EPOCH - timedelta(hours=1), EPOCH - timedelta(hours=1)),
        (EPOCH + timedelta(hours=1), EPOCH),
    ],
)
def test_what_a_run_covers(until: datetime | None, covered: datetime) -> None:
    """Up to its snapshot, or to where it was asked for, if that is earlier."""
    run = replace(CONTEXT, request=JobRequest(agency_id=7, until=until))
    _, outcome = decide(run, EXPORT, destination_url=URL, now=EPOCH, bill=billed)

    assert outcome.covered_until == covered


def test_the_outcome_sums_up_the_datasets() -> None:
    """Rows, bytes, busy milliseconds per stage, and where the manifest will be."""
    plan, outcome = decide(CONTEXT, EXPORT, destination_url=URL, now=EPOCH, bill=billed)
    assert (outcome.counts.rows_read, outcome.counts.rows_written, outcome.counts.rows_filtered) == (70, 63, 7)
    assert outcome.counts.accounted_for
    assert outcome.bytes_written == 700
    assert outcome.timings == {"source": 1000.0, "upload": 2000.0}
    assert outcome.bill == BILL
    assert outcome.manifest_url == f"{URL}/{plan.manifest_key}"
    assert outcome_of(CONTEXT, EXPORT, destination_url=URL, manifest_url=None, bill=BILL).manifest_url is None


# -- publish -------------------------------------------------------------------------------------

MANIFEST = "agency_id=7/run_id=r/_manifest.json"


class Prepared:
    """A run with a stored plan of two uploads and an inline artifact, and who may publish it."""

    def __init__(self, *others: MemoryDestination) -> None:
        rows = {"one": [[(1, "x" * 400)]], "two": [[(2, "y" * 400)]], "three": [[(3, "z")]]}
        self.service = Service(config=job("one", "two", "three"), rows=rows, others=others)
        self.destination = self.service.destination
        self.between = Between()

    async def prepare(self) -> Claim:
        """Break off right after the decision, and claim the run."""
        await self.service.accept()
        self.service.between.on_next("complete", refused(DOWN))
        attempted = await self.service.attempt()
        assert attempted.run.state is RunState.PREPARED
        assert self.service.visible() == {}
        await self.service.clock.sleep(1)
        return await self.claim()

    async def claim(self) -> Claim:
        claim = await self.service.runs.queue.claim(worker="w", lease=LEASE, max_runs_per_agency=1)
        assert claim is not None
        return claim

    async def publish(self, claim: Claim, between: Between | None = None) -> RunState:
        around = between or self.between
        runs = interposed(self.service.runs, around)
        destinations = self.service.destinations(around)
        publisher = Publisher(
            attempts=Server("the history", clock=self.service.clock).repeating(runs.attempts, pause=0.2),
            destinations=destinations,
            mask=Mask(),
        )
        run = await publisher.publish(claim, await self.service.runs.attempts.plan(claim))
        assert run == self.service.record().run
        return run.state

    async def lose(self, number: int) -> None:
        """Somebody else aborts an upload of the plan."""
        plan = self.service.record().plan
        assert plan is not None
        artifact = plan.artifacts[number]
        assert isinstance(artifact.staged, MultipartUpload)
        await self.destination.abort(UploadRef(key=artifact.key, upload_id=artifact.staged.upload_id))

    def put(self, key: str, metadata: Mapping[str, str]) -> None:
        """Somebody else's object."""
        self.destination.objects[key] = (b"not ours", metadata)

    def is_published(self) -> bool:
        """The manifest is there, and all that it names."""
        objects = self.destination.objects
        manifest = json.loads(objects[MANIFEST][0])
        for entry in manifest["entries"]:
            body, metadata = objects[entry["url"].removeprefix(f"{self.destination.url}/")]
            assert hashlib.sha256(body).hexdigest() == entry["sha256"]
            assert metadata["attempt"] == str(manifest["attempt"])
        return len(self.service.visible()) == len(manifest["entries"]) + 1


@pytest.fixture
def prepared() -> Prepared:
    return Prepared()


@in_virtual_time
async def test_publishing_goes_in_order(prepared: Prepared) -> None:
    """Uploads, then inline content, then the manifest, then the run's end."""
    claim = await prepared.prepare()
    assert await prepared.publish(claim) is RunState.SUCCEEDED
    assert prepared.between.log == ["complete", "complete", "complete", "publish", "succeed"]
    assert prepared.is_published()
    assert [event.manifest for event in prepared.service.events()] == [f"memory://destination/{MANIFEST}"]


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(("method", "before"), [("complete", 0), ("complete", 1), ("complete", 2), ("publish", 0)])
@in_virtual_time
async def test_what_breaks_off_is_repeated(prepared: Prepared, method: str, before: int, done: bool) -> None:
    """An error says nothing about what was done; another try makes the same whole."""
    claim = await prepared.prepare()
    prepared.between.on_next(method, *[None] * before, lost_reply(DOWN) if done else refused(DOWN))
    with pytest.raises(DestinationUnavailable):
        await prepared.publish(claim)
    assert prepared.service.record().run.state is RunState.PREPARED
    assert await prepared.publish(claim) is RunState.SUCCEEDED
    assert prepared.is_published()
    assert len(prepared.service.events()) == 1


@in_virtual_time
async def test_a_lost_reply_to_the_end_of_a_run_is_no_second_end(prepared: Prepared) -> None:
    """It is asked for again, and the event was written with it, once."""
    claim = await prepared.prepare()
    prepared.between.on_next("succeed", lost_reply(HISTORY_DOWN))
    assert await prepared.publish(claim) is RunState.SUCCEEDED
    assert prepared.between.log.count("succeed") == 2
    assert len(prepared.service.events()) == 1
    assert prepared.is_published()


@pytest.mark.parametrize("done", range(6))
@in_virtual_time
async def test_a_worker_that_was_taken_over_meanwhile_changes_nothing(prepared: Prepared, done: int) -> None:
    """Paused before any of its steps, it finds all done when it goes on, and only learns that it was superseded."""
    claim = await prepared.prepare()
    seen: dict[str, Any] = {}

    async def taken_over(call: Any) -> Any:
        await prepared.service.clock.sleep(LEASE.total_seconds())
        assert await prepared.publish(await prepared.claim(), Between()) is RunState.SUCCEEDED
        seen.update(objects=dict(prepared.destination.objects), record=repr(prepared.service.record()))
        return await call()

    method, before = [("complete", 0), ("complete", 1), ("complete", 2), ("publish", 0), ("succeed", 0), ("plan", 0)][
        done
    ]
    prepared.between.on_next(method, *[None] * before, taken_over)
    with pytest.raises(Superseded):
        await _published_with_plan(prepared, claim)
    assert seen == {"objects": prepared.destination.objects, "record": repr(prepared.service.record())}
    assert prepared.is_published()
    assert len(prepared.service.events()) == 1


async def _published_with_plan(prepared: Prepared, claim: Claim) -> None:
    """Reads the plan in between, too."""
    await prepared.between("plan", lambda: prepared.service.runs.attempts.plan(claim))
    await prepared.publish(claim)


# -- plans that can't be published ---------------------------------------------------------------


@in_virtual_time
async def test_a_plan_whose_first_upload_is_gone_is_void(prepared: Prepared) -> None:
    """Nothing was completed, so the run is exported again."""
    claim = await prepared.prepare()
    await prepared.lose(0)
    assert await prepared.publish(claim) is RunState.QUEUED
    assert (prepared.service.visible(), prepared.service.events()) == ({}, [])
    assert prepared.service.outcomes() == ["voided"]


@in_virtual_time
async def test_a_plan_that_lost_a_later_upload_fails_and_takes_its_objects_along(prepared: Prepared) -> None:
    """What was completed before is deleted, but only once the run has failed for good."""
    claim = await prepared.prepare()
    await prepared.lose(1)
    states = []

    async def seen(call: Any) -> Any:
        states.append(prepared.service.record().run.state)
        return await call()

    prepared.between.on_every("delete", seen)
    assert await prepared.publish(claim) is RunState.FAILED
    assert prepared.service.visible() == {}
    assert set(states) == {RunState.FAILED}
    assert (
        await prepared.service.runs.leftovers.failed_plan("r") is not None
    )  # for whoever aborts the uploads that are left
    (event,) = prepared.service.events()
    assert (event.error and event.error.kind, event.manifest) == ("plan_lost", None)


@in_virtual_time
async def test_the_objects_of_a_lost_plan_go_although_the_history_was_away(prepared: Prepared) -> None:
    """The run fails as soon as the history answers; a lost reply is no reason to leave objects behind."""
    claim = await prepared.prepare()
    await prepared.lose(1)
    prepared.between.on_next("fail", refused(HISTORY_DOWN), lost_reply(HISTORY_DOWN))
    assert await prepared.publish(claim) is RunState.FAILED
    assert prepared.service.visible() == {}
    assert len(prepared.service.events()) == 1


@in_virtual_time
async def test_a_plan_made_for_another_destination_waits_for_it(prepared: Prepared) -> None:
    """Nothing of it is touched here, least of all taken for lost."""
    claim = await prepared.prepare()
    prepared.destination.url = "memory://elsewhere"
    with pytest.raises(SettingsError, match=r"memory://destination.*memory://elsewhere"):
        await prepared.publish(claim)
    assert prepared.between.log == []
    prepared.destination.url = "memory://destination"
    assert await prepared.publish(claim) is RunState.SUCCEEDED


@in_virtual_time
async def test_somebody_elses_object_in_the_place_of_one_is_neither_overwritten_nor_deleted(
    prepared: Prepared,
) -> None:
    """The run fails, and takes along only what is its own."""
    claim = await prepared.prepare()
    key = "agency_id=7/run_id=r/three/part-00000.ndjson"
    prepared.put(key, {})
    assert await prepared.publish(claim) is RunState.FAILED
    assert list(prepared.service.visible().values()) == [b"not ours"]
    (event,) = prepared.service.events()
    assert event.error
    assert event.error.kind == "conflicting_objects"
    assert key in event.error.message


@in_virtual_time
async def test_somebody_elses_manifest_fails_the_run(prepared: Prepared) -> None:
    """It stays as it is, and the run's own objects go."""
    claim = await prepared.prepare()
    prepared.put(MANIFEST, {})
    assert await prepared.publish(claim) is RunState.FAILED
    assert list(prepared.service.visible().values()) == [b"not ours"]
    assert [event.error and event.error.kind for event in prepared.service.events()] == ["conflicting_objects"]


@in_virtual_time
async def test_a_superseded_worker_that_finds_a_conflict_deletes_nothing(prepared: Prepared) -> None:
    """Deleting is for whoever has failed the run."""
    claim = await prepared.prepare()
    prepared.put(MANIFEST, {})

    async def taken_over() -> None:
        await prepared.service.clock.sleep(LEASE.total_seconds())
        await prepared.claim()

    prepared.between.on_next("publish", after(taken_over))
    with pytest.raises(Superseded):
        await prepared.publish(claim)
    assert len(prepared.service.visible()) == 4
    assert "delete" not in prepared.between.log
    assert prepared.service.record().run.state is RunState.PREPARED


@in_virtual_time
async def test_an_object_that_cant_be_deleted_doesnt_keep_the_others(prepared: Prepared) -> None:
    """The run has failed whatever becomes of them."""
    claim = await prepared.prepare()
    prepared.put(MANIFEST, {})
    prepared.between.on_next("delete", refused(AccessDenied("no s3:DeleteObject")))
    assert await prepared.publish(claim) is RunState.FAILED
    assert sorted(prepared.service.visible()) == ["run_id=r/_manifest.json", "run_id=r/one/part-00000.ndjson"]


@pytest.mark.parametrize("kept", [False, True])
@in_virtual_time
async def test_a_failed_plan_is_remembered_until_its_objects_are_gone(kept: bool) -> None:
    """Whoever worked on the run forgets it at the end, unless an object could not be deleted: then gc goes on."""
    service = Service(config=job("small", "large"))
    await service.accept()
    service.destination.objects[MANIFEST] = (b"not ours", {})
    service.between.on_next("exists", _not_there)
    if kept:
        service.between.on_every("delete", refused(AccessDenied("no s3:DeleteObject")))
    attempted = await service.attempt()
    assert attempted.run.state is RunState.FAILED
    assert (await service.runs.leftovers.failed_plan("r") is not None) == kept
    assert await service.runs.leftovers.runs_to_clean_up() == (["r"] if kept else [])
    assert len(service.visible()) == (3 if kept else 1)


async def _not_there(call: Any) -> bool:
    """What a look gives that comes just before somebody puts an object there."""
    return False


# -- several destinations ------------------------------------------------------------------------


class Everywhere(Prepared):
    """The same with a second destination, and one with tables: four uploads, two inline artifacts, three tables."""

    def __init__(self) -> None:
        self.second = MemoryDestination(url="memory://second", inline_limit=INLINE_LIMIT, handles="second")
        self.tables = MemoryTables()
        super().__init__(self.second, self.tables)
        self.primary = self.destination

    def places(self) -> list[str]:
        """Where each artifact of the plan goes, in order."""
        plan = self.service.record().plan
        assert plan is not None
        return [artifact.destination.removeprefix("memory://") for artifact in plan.artifacts]

    def objects(self) -> dict[str, int]:
        """How many a reader sees at each place."""
        found = {each.url: set(each.objects) - {INSTALLATION_KEY} for each in (self.primary, self.second, self.tables)}
        return {url.removeprefix("memory://"): len(keys) for url, keys in found.items()}


NOWHERE = {"destination": 0, "second": 0, "tables": 0}
EVERYWHERE = {"destination": 4, "second": 3, "tables": 3}
"""With the manifest."""


@pytest.fixture
def everywhere() -> Everywhere:
    return Everywhere()


@in_virtual_time
async def test_tables_come_last(everywhere: Everywhere) -> None:
    """Nothing undoes what has been merged into one, so all that could still fail the plan comes before."""
    claim = await everywhere.prepare()
    assert everywhere.places() == [
        *["destination", "second"] * 2,
        *["destination", "second"],
        *["tables"] * 3,
    ]
    seen = []

    async def look(call: Any) -> Any:
        seen.append(everywhere.objects())
        return await call()

    everywhere.between.on_every("complete", look)
    everywhere.between.on_every("publish", look)
    assert await everywhere.publish(claim) is RunState.SUCCEEDED
    assert [place["tables"] for place in seen] == [0] * 7 + [1, 2, 3]
    assert seen[-1] == {"destination": 3, "second": 3, "tables": 3}
    assert everywhere.objects() == EVERYWHERE
    assert everywhere.is_published()


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("before", range(9))
@in_virtual_time
async def test_what_breaks_off_at_any_destination_is_repeated(before: int, done: bool) -> None:
    """Until all of them have all."""
    everywhere = Everywhere()
    claim = await everywhere.prepare()
    everywhere.between.on_next("complete", *[None] * before, lost_reply(DOWN) if done else refused(DOWN))
    with pytest.raises(DestinationUnavailable):
        await everywhere.publish(claim)
    assert everywhere.service.record().run.state is RunState.PREPARED
    assert await everywhere.publish(claim) is RunState.SUCCEEDED
    assert everywhere.objects() == EVERYWHERE


@pytest.mark.parametrize(("number", "state"), [(0, RunState.QUEUED), *[(n, RunState.FAILED) for n in (1, 2, 3, 6, 8)]])
@in_virtual_time
async def test_an_upload_that_is_lost_at_any_destination(number: int, state: RunState) -> None:
    """The plan's first one, wherever it is, makes the plan void; a later one fails the run, and all its objects go."""
    everywhere = Everywhere()
    claim = await everywhere.prepare()
    plan = everywhere.service.record().plan
    assert plan is not None
    lost = plan.artifacts[number]
    assert isinstance(lost.staged, MultipartUpload | StagedTable)
    handle = lost.staged.table if isinstance(lost.staged, StagedTable) else lost.staged.upload_id
    (place,) = (each for each in (everywhere.destination, *everywhere.service.others) if each.url == lost.destination)
    await place.abort(UploadRef(key=lost.key, upload_id=handle))

    assert await everywhere.publish(claim) is state
    assert everywhere.objects() == NOWHERE
    if state is RunState.FAILED:
        (event,) = everywhere.service.events()
        assert event.error
        assert event.error.kind == "plan_lost"
        assert f"{lost.destination}/{lost.key}" in event.error.message


@in_virtual_time
async def test_a_manifest_that_is_somebody_elses_takes_all_objects_along(everywhere: Everywhere) -> None:
    """At every destination that lets them go."""
    claim = await everywhere.prepare()
    everywhere.put(MANIFEST, {})
    assert await everywhere.publish(claim) is RunState.FAILED
    assert everywhere.objects() == {"destination": 1, "second": 0, "tables": 0}


@pytest.mark.parametrize("gone", ["memory://second", "memory://tables"])
@in_virtual_time
async def test_a_plan_waits_for_every_destination_that_it_needs(everywhere: Everywhere, gone: str) -> None:
    """Before anything of it is touched; the error names what is missing and what there is."""
    claim = await everywhere.prepare()
    there = everywhere.service.others
    everywhere.service.others = [each for each in there if each.url != gone]
    with pytest.raises(
        DestinationChanged, match=f"to be published at {gone}, but this service writes to memory://destination"
    ):
        await everywhere.publish(claim)
    assert everywhere.between.log == []
    assert everywhere.objects() == NOWHERE

    everywhere.service.others = there
    assert await everywhere.publish(claim) is RunState.SUCCEEDED


@in_virtual_time
async def test_a_plan_is_published_where_its_manifest_belongs(everywhere: Everywhere) -> None:
    """Although the place is still there, another one would hold the manifest now."""
    claim = await everywhere.prepare()
    service = everywhere.service
    service.destination, service.others = everywhere.second, [everywhere.destination, everywhere.tables]
    with pytest.raises(DestinationChanged, match="to be published at memory://destination"):
        await everywhere.publish(claim)
    assert everywhere.objects() == NOWHERE

    service.destination, service.others = everywhere.destination, [everywhere.tables, everywhere.second]
    assert await everywhere.publish(claim) is RunState.SUCCEEDED


@pytest.mark.parametrize("more", [False, True])
@in_virtual_time
async def test_a_plan_of_an_older_version_is_published(prepared: Prepared, more: bool) -> None:
    """Its artifacts name no destination: they are at the plan's own, also where there are more destinations now."""
    claim = await prepared.prepare()
    record = prepared.service.record()
    assert record.plan is not None
    older = record.plan.model_dump(mode="json")
    for artifact in older["artifacts"]:
        del artifact["destination"]
        del artifact["rejected"]
    record.plan = Plan.model_validate(older)
    if more:
        prepared.service.others = [MemoryDestination(url="memory://second"), MemoryTables()]

    assert await prepared.publish(claim) is RunState.SUCCEEDED
    assert prepared.is_published()
    assert all(each.objects == {} for each in prepared.service.others)
