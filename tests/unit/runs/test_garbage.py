"""What is lost is removed, wherever it is known, and nothing that an attempt at work or a stored plan still needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from pipeline_processing.destinations.installation import INSTALLATION_KEY
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.errors import (
    AccessDenied,
    DestinationUnavailable,
    ForeignPrefix,
    HistoryUnavailable,
    PipelineError,
)
from pipeline_processing.model import RunFailure, RunState
from pipeline_processing.plan import MultipartUpload, Plan, UploadRef
from pipeline_processing.runs.clean_up import Amount
from pipeline_processing.runs.garbage import Collected, GarbageCollector
from pipeline_processing.runs.store import Claim
from tests.memory.destination import MemoryDestination
from tests.unit.in_memory import (
    INLINE_LIMIT,
    INSTALLATION,
    LEASE,
    Between,
    Call,
    Interposed,
    Service,
    interposed,
    job,
    refused,
)
from tests.unit.memory_tables import MemoryTables
from tests.unit.virtual_clock import in_virtual_time

DOWN = DestinationUnavailable("the destination is down")
LOST = RunFailure(kind="plan_lost", message="an upload is gone", retryable=False, exit_code=1)
NOTHING: tuple[list[Any], list[Any]] = ([], [])


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


class Listing:
    """A destination where something else happens right before its uploads are listed, or right after."""

    def __init__(self, real: Any, *, before: Call | None = None, after: Call | None = None) -> None:
        self._real = real
        self._before = before
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def pending_uploads(self) -> AsyncIterator[UploadRef]:
        if self._before is not None:
            await self._before()
        async for upload in self._real.pending_uploads():
            yield upload
        if self._after is not None:
            await self._after()


class Place:
    """A history and a destination, and what attempts have left there. Of two datasets each run's are two uploads."""

    def __init__(self, *others: MemoryDestination) -> None:
        rows = {"one": [[(1, "x" * 400)]], "two": [[(2, "y" * 400)]], "three": [[(3, "z")]]}
        self.service = Service(config=job("one", "two", "three"), rows=rows, max_runs_per_agency=100, others=others)
        self.runs = self.service.runs
        self.destination = self.service.destination
        self.between = Between()
        self._names = iter(range(1000))

    # -- runs and what they leave ----------------------------------------------------------------

    async def claimed(self, run_id: str = "r") -> Claim:
        """A run at work."""
        await self.service.accept(run_id)
        return await self.claim(run_id)

    async def claim(self, run_id: str = "r") -> Claim:
        claim = await self.runs.queue.claim(worker="w", lease=LEASE, max_runs_per_agency=100, run_id=run_id)
        assert claim is not None
        return claim

    async def taken_over(self, run_id: str = "r") -> Claim:
        """The next attempt, after the lease of the last has ended."""
        await self.service.clock.sleep(LEASE.total_seconds())
        return await self.claim(run_id)

    def start(self, run_id: str = "r") -> UploadRef:
        """An upload that nobody has recorded yet."""
        return self.destination.start(f"agency_id=7/run_id={run_id}/records/part-{next(self._names):05}.csv")

    async def record(self, claim: Claim, upload: UploadRef, *, destination: str | None = None) -> None:
        recorded = upload.model_copy(update={"destination": destination or self.destination.url})
        await self.runs.attempts.record_upload(claim, recorded)

    async def uploading(self, claim: Claim) -> UploadRef:
        """An upload of this attempt, recorded."""
        upload = self.start(claim.run.run_id)
        await self.record(claim, upload)
        return upload

    async def prepared(self) -> Claim:
        """A run that is decided, with nothing of it completed, and who holds it."""
        await self.service.accept()
        self.service.between.on_next("complete", refused(DOWN))
        attempted = await self.service.attempt()
        assert attempted.run.state is RunState.PREPARED
        await self.service.clock.sleep(1)
        return await self.claim()

    async def failed(self, *, completed: int = 3) -> Plan:
        """A run that failed after so many of its plan's artifacts were completed, whose worker died of it."""
        claim = await self.prepared()
        plan = await self.runs.attempts.plan(claim)
        for artifact in plan.artifacts[:completed]:
            await self.destination.complete(artifact, metadata=plan.metadata)
        await self.runs.attempts.fail(claim, LOST, state=RunState.PREPARED)
        return plan

    # -- gc --------------------------------------------------------------------------------------

    async def collect(self, *, before: Call | None = None, after: Call | None = None, **options: Any) -> Collected:
        """What `gc` does. `before` and `after` its listing other things may happen."""
        runs = interposed(self.runs, self.between)
        listing: Any = Listing(Interposed(self.destination, self.between), before=before, after=after)
        destinations = Destinations([listing, *self.service.others])
        return await GarbageCollector(
            leftovers=runs.leftovers, history=runs.history, destinations=destinations, **options
        ).collect()

    @property
    def there(self) -> list[UploadRef]:
        """Uploads at the destination."""
        return self.destination.open_uploads

    @property
    def recorded(self) -> list[tuple[str, str]]:
        """Uploads in the history."""
        return [upload for record in self.service.table.records.values() for upload in record.uploads]


@pytest.fixture
def place() -> Place:
    return Place()


def collected(uploads: int = 0, failed_runs: int = 0, **others: Any) -> Collected:
    """That much was removed; nothing was left, but what is said."""
    left: dict[str, Any] = {"in_use": 0, "unknown": 0, "elsewhere": {}, "problems": (), **others}
    return Collected(removed=Amount(uploads, failed_runs), **left)


# -- what is lost --------------------------------------------------------------------------------


@in_virtual_time
async def test_where_nothing_happened_nothing_is_removed(place: Place) -> None:
    """An empty history, an empty destination; nothing is written either."""
    assert await place.collect() == collected()
    assert place.destination.objects == {}


@in_virtual_time
async def test_uploads_of_an_attempt_that_was_taken_over_go(place: Place) -> None:
    """Those of the attempt at work stay, there and in the history."""
    claim = await place.claimed()
    lost = [await place.uploading(claim) for _ in range(2)]
    live = await place.uploading(await place.taken_over())
    assert place.there == [*lost, live]

    assert await place.collect() == collected(uploads=2, in_use=1)

    assert place.there == [live]
    assert place.recorded == [(live.key, live.upload_id)]


async def cancelled(place: Place, claim: Claim) -> None:
    await place.runs.queue.cancel(claim.run.run_id)


async def failed(place: Place, claim: Claim) -> None:
    await place.runs.attempts.fail(claim, LOST)


async def to_be_tried_again(place: Place, claim: Claim) -> None:
    await place.runs.attempts.retry(claim, LOST, delay=timedelta(seconds=5))


async def handed_back(place: Place, claim: Claim) -> None:
    await place.runs.attempts.hand_back(claim)


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("end", [cancelled, failed, to_be_tried_again, handed_back])
@in_virtual_time
async def test_uploads_of_an_attempt_that_is_over_go(place: Place, end: Callable[..., Any], recorded: bool) -> None:
    """However it ended, and also if its worker died before it had recorded the upload."""
    claim = await place.claimed()
    await (place.uploading(claim) if recorded else _unrecorded(place))
    await end(place, claim)

    assert await place.collect() == collected(uploads=1)

    assert (place.there, place.recorded) == NOTHING
    assert await place.collect() == collected()


async def _unrecorded(place: Place) -> None:
    place.start()


@in_virtual_time
async def test_time_alone_makes_nothing_lost(place: Place) -> None:
    """A lease that ended days ago and that nobody took over may be that of a worker that comes back."""
    await place.uploading(await place.claimed())
    place.start()
    await place.service.clock.sleep(10 * 86400)

    assert await place.collect() == collected(in_use=2)


@in_virtual_time
async def test_a_decided_run_keeps_its_uploads(place: Place) -> None:
    """Its plan is published afterwards, whole."""
    await place.prepared()
    assert await place.collect() == collected(in_use=2)

    await place.service.clock.sleep(LEASE.total_seconds())
    attempted = await place.service.attempt()

    assert attempted.run.state is RunState.SUCCEEDED
    assert place.service.left_over() == NOTHING
    assert await place.collect() == collected()


@in_virtual_time
async def test_uploads_of_no_run_are_left_alone_and_counted(place: Place) -> None:
    """Who knows whose they are: of a run that isn't in the history, or below a key that names none."""
    await place.service.accept("known")
    for key in (
        "agency_id=7/run_id=unknown/records/part-00000.csv",
        "agency_id=7/run_id=unknown/records/part-00001.csv",
        "agency_id=7/x-run_id=known/records/part-00000.csv",
        "agency_id=7/run_id=/known/part-00000.csv",
        "agency_id=7/run_id=known",
        "agency_id=7/run_id=a\0b/records/part-00000.csv",
        "agency_id=7/run_id=known/records/a\0b",
        "x",
    ):
        place.destination.start(key)

    assert await place.collect() == collected(unknown=8)
    assert len(place.there) == 8


# -- failed plans --------------------------------------------------------------------------------


@pytest.mark.parametrize("done", range(4))
@in_virtual_time
async def test_what_a_failed_plan_made_visible_goes(place: Place, done: int) -> None:
    """With the uploads that it didn't come to; the plan is forgotten, so that it is done once."""
    await place.failed(completed=done)
    assert len(place.service.visible()) == done
    left = len(place.there)

    found = await place.collect()

    # The history still names uploads that were completed since: nobody aborted those, but they are gone.
    assert found == collected(uploads=2, failed_runs=1)
    assert left == max(0, 2 - done)
    assert (place.there, place.recorded, place.service.visible()) == ([], [], {})
    assert await place.runs.leftovers.failed_plan("r") is None
    assert await place.collect() == collected()


@in_virtual_time
async def test_uploads_of_a_failed_plan_go_before_its_objects(place: Place) -> None:
    """Or a worker that was paused could complete one more when its object was looked for already."""
    plan = await place.failed(completed=1)
    late = plan.artifacts[1]

    async def somebody_completes(call: Call) -> Any:
        assert place.there == []
        with pytest.raises(PipelineError):
            await place.destination.complete(late, metadata=plan.metadata)
        return await call()

    place.between.on_next("delete", somebody_completes)
    await place.collect()

    assert place.service.visible() == {}


@in_virtual_time
async def test_an_object_that_isnt_the_plans_own_stays(place: Place) -> None:
    """It stands where one of the plan should, which is why the run failed."""
    plan = await place.failed(completed=2)
    place.destination.objects[plan.artifacts[2].key] = (b"not ours", {})

    assert (await place.collect()).removed.failed_runs == 1

    assert list(place.service.visible().values()) == [b"not ours"]


@in_virtual_time
async def test_a_failed_plan_is_kept_until_all_its_objects_are_gone(place: Place) -> None:
    """What can't be deleted now is tried at the next `gc`, and the other objects go meanwhile."""
    await place.failed()
    denied = AccessDenied("no s3:DeleteObject")
    place.between.on_next("delete", None, refused(denied))

    assert await place.collect() == collected(uploads=2, problems=(denied,))
    assert len(place.service.visible()) == 1

    assert await place.collect() == collected(failed_runs=1)
    assert place.service.visible() == {}


@in_virtual_time
async def test_a_failed_plan_is_kept_while_one_of_its_uploads_cant_be_aborted(place: Place) -> None:
    """That upload might still become an object."""
    await place.failed(completed=1)
    place.between.on_next("abort", None, refused(DOWN))

    assert await place.collect() == collected(uploads=1, problems=(DOWN,))
    assert await place.runs.leftovers.failed_plan("r") is not None

    assert await place.collect() == collected(uploads=1, failed_runs=1)


@in_virtual_time
async def test_a_worker_that_fails_a_plan_leaves_nothing_to_do(place: Place) -> None:
    """It cleans up in the same way."""
    await place.prepared()
    plan = place.service.record().plan
    assert plan is not None
    staged = plan.artifacts[1].staged
    assert isinstance(staged, MultipartUpload)
    await place.destination.abort(UploadRef(key=plan.artifacts[1].key, upload_id=staged.upload_id))
    await place.service.clock.sleep(LEASE.total_seconds())

    attempted = await place.service.attempt()

    assert attempted.run.state is RunState.FAILED
    assert place.service.visible() == {}
    assert await place.runs.leftovers.runs_to_clean_up() == []
    assert await place.collect() == collected()


# -- beside workers ------------------------------------------------------------------------------


@in_virtual_time
async def test_an_upload_that_is_recorded_after_the_listing_stays(place: Place) -> None:
    """It was started before, and its worker is between the two."""
    claim = await place.claimed()
    upload = place.start()

    async def recorded() -> None:
        await place.record(claim, upload)

    assert await place.collect(after=recorded) == collected(in_use=1)
    assert place.there == [upload]


@pytest.mark.parametrize("when", ["before", "after"])
@in_virtual_time
async def test_an_attempt_that_begins_meanwhile_keeps_its_upload(place: Place, when: str) -> None:
    """The run was queued when `gc` began, with a lost upload; now it runs, with one that isn't recorded yet."""
    claim = await place.claimed()
    lost = await place.uploading(claim)
    await place.runs.attempts.hand_back(claim)
    new: list[UploadRef] = []

    async def begun() -> None:
        await place.claim()
        new.append(place.start())

    found = await place.collect(**{when: begun})

    assert found == collected(uploads=1, in_use=1 if when == "before" else 0)
    assert place.there == new
    assert lost not in place.there


@in_virtual_time
async def test_a_run_that_is_decided_meanwhile_keeps_its_uploads(place: Place) -> None:
    """They were listed while it was running, and now its plan needs them."""
    await place.service.accept()

    async def listed_then(call: Call) -> Any:
        async def decided() -> None:
            await call()

        assert await place.collect(after=decided) == collected(in_use=2)

    place.service.between.on_next("prepare", listed_then)
    attempted = await place.service.attempt()

    assert attempted.run.state is RunState.SUCCEEDED
    assert place.service.left_over() == NOTHING


@in_virtual_time
async def test_a_run_that_is_taken_over_meanwhile_loses_what_its_last_attempt_left(place: Place) -> None:
    """As soon as the history says so, and not what the new attempt has started."""
    lost = await place.uploading(await place.claimed())
    live: list[UploadRef] = []

    async def taken_over() -> None:
        live.append(await place.uploading(await place.taken_over()))

    assert await place.collect(after=taken_over) == collected(uploads=1)
    assert place.there == live
    assert lost not in live
    assert place.recorded == [(live[0].key, live[0].upload_id)]


@in_virtual_time
async def test_a_run_that_publishes_meanwhile_is_published(place: Place) -> None:
    """Its uploads were listed, and have become objects before the history is asked."""
    await place.service.accept()

    async def listed_then(call: Call) -> Any:
        async def completed() -> None:
            await call()

        await place.collect(after=completed)

    place.service.between.on_next("complete", listed_then, listed_then)
    place.service.between.on_next("publish", listed_then)

    attempted = await place.service.attempt()

    assert attempted.run.state is RunState.SUCCEEDED
    assert len(place.service.visible()) == 4
    assert place.service.left_over() == NOTHING


# -- other destinations, other installations -----------------------------------------------------


@in_virtual_time
async def test_what_is_lost_elsewhere_is_left_and_told(place: Place) -> None:
    """Its record stays in the history for a `gc` there."""
    claim = await place.claimed()
    here = await place.uploading(claim)
    for number in range(3):
        there = UploadRef(key=here.key, upload_id=f"elsewhere-{number}")
        await place.record(claim, there, destination="memory://old")
    await place.runs.queue.cancel("r")

    assert await place.collect() == collected(uploads=1, elsewhere={"memory://old": Amount(uploads=3)})

    assert len(place.recorded) == 3
    assert place.between.log.count("abort") == 1
    place.destination.url = "memory://old"
    assert await place.collect() == collected(uploads=3)
    assert place.recorded == []


@in_virtual_time
async def test_objects_of_a_failed_run_elsewhere_are_left_and_told(place: Place) -> None:
    """Here another object might have the same key."""
    await place.failed()
    place.destination.url = "memory://new"

    found = await place.collect()

    assert found == collected(elsewhere={"memory://destination": Amount(uploads=2, failed_runs=1)})
    assert len(place.service.visible()) == 3
    assert await place.runs.leftovers.failed_plan("r") is not None


@in_virtual_time
async def test_below_anothers_prefix_nothing_is_touched(place: Place) -> None:
    """Not even looked for: their runs may have the same ids."""
    claim = await place.claimed()
    await place.uploading(claim)
    await place.runs.queue.cancel("r")
    await place.destination.mark_installation(uuid4())

    with pytest.raises(ForeignPrefix, match=str(INSTALLATION)):
        await place.collect()

    assert place.between.log == ["installation_id", "verify_installation"]
    assert len(place.there) == len(place.recorded) == 1


# -- what goes wrong -----------------------------------------------------------------------------


@in_virtual_time
async def test_an_upload_that_cant_be_aborted_doesnt_keep_the_others(place: Place) -> None:
    """It is tried once, told, and stays in the history for the next time."""
    claims = [await place.claimed(run_id) for run_id in ("a", "b")]
    uploads = [await place.uploading(claim) for claim in claims for _ in range(2)]
    for claim in claims:
        await place.runs.queue.cancel(claim.run.run_id)
    denied = AccessDenied("no s3:AbortMultipartUpload")
    place.between.on_next("abort", refused(denied), None, refused(DOWN))

    found = await place.collect()

    assert found == collected(uploads=2, problems=(denied, DOWN))
    assert place.there == [uploads[0], uploads[2]]
    assert place.recorded == [(upload.key, upload.upload_id) for upload in place.there]
    assert await place.collect() == collected(uploads=2)


@in_virtual_time
async def test_a_destination_that_doesnt_list_is_cleaned_up_by_the_history(place: Place) -> None:
    """The right to list is one that not every identity has."""
    claim = await place.claimed()
    await place.uploading(claim)
    await place.runs.queue.cancel("r")
    denied = AccessDenied("no s3:ListBucketMultipartUploads")

    async def refuse() -> None:
        raise denied

    assert await place.collect(before=refuse) == collected(uploads=1, problems=(denied,))
    assert (place.there, place.recorded) == NOTHING


@in_virtual_time
async def test_without_the_history_nothing_is_removed(place: Place) -> None:
    """It alone knows what is lost."""
    claim = await place.claimed()
    await place.uploading(claim)
    await place.runs.queue.cancel("r")
    for question in ("installation_id", "runs_to_clean_up", "lost_uploads"):
        place.between.on_next(question, refused(HistoryUnavailable("down")))
        with pytest.raises(HistoryUnavailable):
            await place.collect()
    assert "abort" not in place.between.log


@in_virtual_time
async def test_what_was_aborted_and_not_forgotten_is_forgotten_the_next_time(place: Place) -> None:
    """Aborting again is harmless."""
    claim = await place.claimed()
    await place.uploading(claim)
    await place.runs.queue.cancel("r")
    place.between.on_next("forget_uploads", refused(HistoryUnavailable("down")))
    with pytest.raises(HistoryUnavailable):
        await place.collect()
    assert (place.there, len(place.recorded)) == ([], 1)

    assert await place.collect() == collected(uploads=1)
    assert place.recorded == []


# -- dry runs ------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_dry_run_counts_the_same_and_touches_nothing(place: Place) -> None:
    """Each upload once, though both the history and the listing know it."""
    await place.failed(completed=2)
    claim = await place.claimed("cancelled")
    for _ in range(2):
        await place.uploading(claim)
    place.start("cancelled")
    await place.runs.queue.cancel("cancelled")
    await place.uploading(await place.claimed("live"))
    place.start("unknown")
    before = list(place.there), list(place.recorded), dict(place.destination.objects)

    would = await place.collect(dry_run=True)

    assert (place.there, place.recorded, place.destination.objects) == before
    assert not {"abort", "delete", "forget_uploads", "forget_failed_plan"} & set(place.between.log)
    assert would == collected(uploads=5, failed_runs=1, in_use=1, unknown=1)
    assert await place.collect() == would


# -- several destinations ------------------------------------------------------------------------


class Everywhere(Place):
    """The same with a second destination, and one with tables."""

    def __init__(self) -> None:
        self.second = MemoryDestination(url="memory://second", inline_limit=INLINE_LIMIT, handles="second")
        self.tables = MemoryTables()
        super().__init__(self.second, self.tables)
        self.all = (self.destination, self.second, self.tables)

    async def begun(self, run_id: str = "r", *, recorded: bool = True) -> Claim:
        """A run at work, with an upload at each."""
        claim = await self.claimed(run_id)
        for each in self.all:
            upload = each.start(f"agency_id=7/run_id={run_id}/records/part-00000.csv")
            if recorded:
                await self.record(claim, upload, destination=each.url)
        return claim

    def left(self) -> list[int]:
        """Open uploads at each."""
        return [len(each.open_uploads) for each in self.all]


@pytest.mark.parametrize("recorded", [True, False])
@in_virtual_time
async def test_lost_uploads_of_all_destinations_go(recorded: bool) -> None:
    """Each is aborted where it is, and counted once, though both the history and the listing know it."""
    everywhere = Everywhere()
    claim = await everywhere.begun(recorded=recorded)
    await everywhere.begun("live", recorded=recorded)
    await everywhere.runs.queue.cancel(claim.run.run_id)

    assert await everywhere.collect(dry_run=True) == collected(uploads=3, in_use=3)
    assert await everywhere.collect() == collected(uploads=3, in_use=3)

    assert everywhere.left() == [1, 1, 1]


@in_virtual_time
async def test_a_destination_that_cant_be_listed_doesnt_keep_the_others() -> None:
    """What stands there and in no record is left for the next time."""
    everywhere = Everywhere()
    claim = await everywhere.begun(recorded=False)
    await everywhere.runs.queue.cancel(claim.run.run_id)

    async def refuse() -> None:
        raise DOWN

    assert await everywhere.collect(before=refuse) == collected(uploads=2, problems=(DOWN,))
    assert everywhere.left() == [1, 0, 0]


@in_virtual_time
async def test_a_failed_plan_goes_from_all_destinations() -> None:
    """It is forgotten once all of its objects are gone."""
    everywhere = Everywhere()
    claim = await everywhere.prepared()
    plan = await everywhere.runs.attempts.plan(claim)
    for artifact in plan.artifacts[:-1]:
        await everywhere.service.destinations(everywhere.between).complete(artifact, metadata=plan.metadata)
    await everywhere.runs.attempts.fail(claim, LOST, state=RunState.PREPARED)

    found = await everywhere.collect()

    assert (found.removed.failed_runs, found.problems) == (1, ())
    assert [each.objects.keys() - {INSTALLATION_KEY} for each in everywhere.all] == [set(), set(), set()]
    assert (everywhere.left(), everywhere.recorded) == ([0, 0, 0], [])
    assert await everywhere.runs.leftovers.failed_plan("r") is None


@in_virtual_time
async def test_a_failed_plan_waits_for_all_its_destinations() -> None:
    """Nothing of it goes while one of them isn't here; it is told, by its URL."""
    everywhere = Everywhere()
    claim = await everywhere.prepared()
    plan = await everywhere.runs.attempts.plan(claim)
    for artifact in plan.artifacts:
        await everywhere.service.destinations(everywhere.between).complete(artifact, metadata=plan.metadata)
    await everywhere.runs.attempts.fail(claim, LOST, state=RunState.PREPARED)
    everywhere.service.others = [everywhere.second]

    found = await everywhere.collect()

    assert found.elsewhere["memory://tables"].failed_runs == 1
    assert found.removed.failed_runs == 0
    assert len(everywhere.service.visible()) == 3

    everywhere.service.others = [everywhere.second, everywhere.tables]
    assert (await everywhere.collect()).removed.failed_runs == 1
    assert everywhere.service.visible() == {}


@pytest.mark.parametrize("place", [0, 1, 2])
@in_virtual_time
async def test_one_destination_of_somebody_elses_is_enough(place: int) -> None:
    """Nothing is touched anywhere."""
    everywhere = Everywhere()
    claim = await everywhere.begun()
    await everywhere.runs.queue.cancel(claim.run.run_id)
    await everywhere.all[place].mark_installation(uuid4())

    with pytest.raises(ForeignPrefix):
        await everywhere.collect()

    assert everywhere.left() == [1, 1, 1]


@in_virtual_time
async def test_uploads_that_name_no_destination_are_the_primarys() -> None:
    """So they were recorded by an older version, which had one destination."""
    everywhere = Everywhere()
    claim = await everywhere.claimed()
    upload = everywhere.start()
    await everywhere.runs.attempts.record_upload(claim, upload)
    await everywhere.runs.queue.cancel("r")

    assert (await everywhere.collect()).problems == ()
    assert (everywhere.left(), everywhere.recorded) == ([0, 0, 0], [])
