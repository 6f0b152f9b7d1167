"""The data path on in-memory ports: rejected rows, several destinations, and what was covered before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline_processing.destinations.installation import INSTALLATION_KEY
from pipeline_processing.errors import SourceBusy, StepFailed
from pipeline_processing.model import Run, RunState
from pipeline_processing.runs.failures import RetryPolicy
from tests.memory.destination import MemoryDestination
from tests.unit.in_memory import Service, job, refused
from tests.unit.memory_tables import MemoryTables
from tests.unit.virtual_clock import EPOCH, in_virtual_time

ROWS = {"records": [[(1, "10"), (2, "two")], [(3, "30"), (4, "four"), (5, None)]]}
TO_NUMBERS = {"cast": {"name": "integer"}}
PREFIX = "agency_id=7/run_id=r"
COUNTS = ("rows_read", "rows_written", "rows_filtered", "rows_rejected")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


def service(*steps: Any, others: Any = (), retry: RetryPolicy | None = None, **options: Any) -> Service:
    """A job with one dataset, two of whose names are no numbers."""
    return Service(
        config=job("records", steps=list(steps), **options),
        rows=ROWS,
        others=others,
        retry=retry or RetryPolicy(),
    )


async def run(of: Service, run_id: str = "r", **request: Any) -> Run:
    await of.accept(run_id, **request)
    return (await of.attempt()).run


def counts(run: Run) -> tuple[int | None, ...]:
    """Read, written, filtered, rejected."""
    return tuple(getattr(run, name) for name in COUNTS)


def lines(body: bytes) -> list[Any]:
    return [json.loads(line) for line in body.splitlines()]


def failed(run: Run, kind: str) -> str:
    """The message of the error of that kind that the run has failed with."""
    assert run.state is RunState.FAILED
    assert run.error is not None
    assert run.error.kind == kind
    return run.error.message


# -- rejected rows -------------------------------------------------------------------------------


@in_virtual_time
async def test_by_default_a_row_that_cannot_be_used_fails_the_run() -> None:
    """The message says which dataset, step and row; nothing is published."""
    of = service(TO_NUMBERS)
    message = failed(await run(of), "step_failed")

    assert message.startswith("Dataset 'records', step 'cast")
    assert "row 2: " in message
    assert "two" not in message
    assert (of.visible(), of.left_over()) == ({}, ([], []))


@in_virtual_time
async def test_skipped_rows_are_counted() -> None:
    """They are nowhere else."""
    of = service(TO_NUMBERS, {"filter": "id <> 3"}, on_row_error="skip")
    finished = await run(of)

    assert (finished.state, counts(finished)) == (RunState.SUCCEEDED, (5, 2, 1, 2))
    assert sorted(of.visible()) == ["run_id=r/_manifest.json", "run_id=r/records/part-00000.ndjson"]
    assert json.loads(of.visible()["run_id=r/_manifest.json"])["rejected"] == []


@in_virtual_time
async def test_rows_in_quarantine() -> None:
    """An artifact of their own, which the manifest names apart; all counts agree with each other."""
    of = service({"filter": "id <> 3"}, TO_NUMBERS, on_row_error="quarantine")
    finished = await run(of)

    assert (finished.state, counts(finished)) == (RunState.SUCCEEDED, (5, 2, 1, 2))
    visible = of.visible()
    good, bad = "run_id=r/records/part-00000.ndjson", "run_id=r/_rejected/records/part-00000.ndjson"
    assert sorted(visible) == sorted(["run_id=r/_manifest.json", good, bad])
    assert lines(visible[good]) == [{"id": 1, "name": 10}, {"id": 5, "name": None}]
    rejected = lines(visible[bad])
    assert [(line["row_number"], line["row"]) for line in rejected] == [
        (2, {"id": 2, "name": "two"}),
        (4, {"id": 4, "name": "four"}),
    ]
    assert all(line["step"].startswith("cast") and "integer" in line["reason"] for line in rejected)
    assert not any(value in line["reason"] for line in rejected for value in ("two", "four"))

    manifest = json.loads(visible["run_id=r/_manifest.json"])
    (entry,), (apart,) = manifest["entries"], manifest["rejected"]
    assert (entry["url"], entry["rows"]) == (f"{of.destination.url}/agency_id=7/{good}", 2)
    assert (apart["url"], apart["dataset"], apart["rows"]) == (f"{of.destination.url}/agency_id=7/{bad}", "records", 2)
    assert apart["meta"]["content_length"] == len(visible[bad])
    assert set(apart) == {"url", "dataset", "rows", "meta", "sha256"}
    assert manifest["rows_rejected"] == manifest["datasets"][0]["rows_rejected"] == 2
    assert finished.bytes_written == len(visible[good]) + len(visible[bad]) == of.progress[-1].bytes_written
    (event,) = of.events()
    assert tuple(getattr(event, name) for name in COUNTS) == counts(finished)


@in_virtual_time
async def test_a_row_in_quarantine_is_as_documented() -> None:
    """The example of job-config.md, but for the name of the column here."""
    rows = [*((number, "1") for number in range(1, 17)), (17, "n/a")]
    of = Service(
        config=job("records", steps=[{"cast": {"name": "numeric"}}], on_row_error="quarantine"),
        rows={"records": [rows]},
    )
    await run(of)

    page = (Path(__file__).parents[3] / "docs/job-config.md").read_text("utf-8").replace("amount", "name")
    assert f"\n{of.visible()['run_id=r/_rejected/records/part-00000.ndjson'].decode()}" in page


@in_virtual_time
async def test_rows_in_quarantine_of_a_csv() -> None:
    """Always NDJSON, never compressed, and whole, whatever the dataset's own artifacts are like."""
    of = service(TO_NUMBERS, on_row_error="quarantine", format="csv", compression="gzip", max_artifact_rows=1)
    finished = await run(of)

    assert counts(finished) == (5, 3, 0, 2)
    body = of.visible()["run_id=r/_rejected/records/part-00000.ndjson"]
    assert [line["row_number"] for line in lines(body)] == [2, 4]
    assert len([key for key in of.visible() if "/records/part" in key and "_rejected" not in key]) == 3


@in_virtual_time
async def test_masked_columns_are_masked_in_quarantine() -> None:
    """Also of rows that were rejected before they came to the mask; here nothing shows of what was cast before it."""
    of = service(TO_NUMBERS, {"mask": {"columns": ["name"], "using": "redact", "with": "?"}}, on_row_error="quarantine")
    await run(of)

    rejected = lines(of.visible()["run_id=r/_rejected/records/part-00000.ndjson"])
    assert [line["row"]["name"] for line in rejected] == ["***", "***"]


@pytest.mark.parametrize("on_row_error", ["skip", "quarantine"])
@pytest.mark.parametrize("most", [1, "39.9%"])
@in_virtual_time
async def test_more_rejected_rows_than_are_allowed(most: Any, on_row_error: str) -> None:
    """The run fails, at once by a count and at the end by a share, and leaves nothing."""
    of = service(TO_NUMBERS, on_row_error=on_row_error, max_rejected=most)
    message = failed(await run(of), "too_many_rejected")

    assert message.count("Dataset 'records'") == 1
    assert "2 rows were rejected" in message
    assert (of.visible(), of.left_over()) == ({}, ([], []))


@pytest.mark.parametrize("most", [2, "40%"])
@in_virtual_time
async def test_as_many_rejected_rows_as_are_allowed(most: Any) -> None:
    """The limit itself is fine."""
    finished = await run(service(TO_NUMBERS, on_row_error="quarantine", max_rejected=most))
    assert (finished.state, finished.rows_rejected) == (RunState.SUCCEEDED, 2)


@in_virtual_time
async def test_each_attempt_rejects_anew() -> None:
    """What an attempt had rejected before it failed isn't counted, or shown, twice."""
    of = service(TO_NUMBERS, on_row_error="quarantine", max_rejected=2)
    of.between.on_next("batch", None, None, refused(SourceBusy("no slots")))
    await run(of)
    await of.clock.sleep(1)
    finished = (await of.attempt()).run

    assert (finished.attempt, counts(finished)) == (2, (5, 3, 0, 2))
    assert len(lines(of.visible()["run_id=r/_rejected/records/part-00000.ndjson"])) == 2


@in_virtual_time
async def test_expectations_are_of_what_is_written() -> None:
    """Rejected rows don't count."""
    of = service(TO_NUMBERS, on_row_error="skip", expect={"min_rows": 4})
    message = failed(await run(of), "expectation_failed")

    assert "3 rows to write" in message
    assert "2 rejected" in message


# -- what a run that fails has done --------------------------------------------------------------


@in_virtual_time
async def test_a_failed_run_tells_how_far_it_was() -> None:
    """In the history and in its event: the rows of all batches that were through."""
    of = service()
    of.between.on_next("batch", None, None, refused(StepFailed("x")))
    finished = await run(of)

    assert (finished.state, counts(finished)) == (RunState.FAILED, (5, 5, 0, 0))
    (event,) = of.events()
    assert (event.rows_read, event.rows_written, event.bytes_written, event.manifest) == (5, 5, 0, None)
    assert finished.manifest_url is None


@in_virtual_time
async def test_a_run_that_fails_before_its_first_row() -> None:
    """It has done nothing."""
    of = service({"filter": "no_such_column = 1"})
    finished = await run(of)

    failed(finished, "unknown_column")
    assert counts(finished) == (0, 0, 0, 0)


@in_virtual_time
async def test_the_last_attempt_of_a_failed_run_counts() -> None:
    """Not all of them together."""
    of = service(retry=RetryPolicy(max_attempts=2))
    of.between.on_next("batch", None, None, refused(SourceBusy("x")), None, refused(SourceBusy("x")))
    await run(of)
    await of.clock.sleep(1)
    finished = (await of.attempt()).run

    failed(finished, "attempts_exhausted")
    assert counts(finished) == (2, 2, 0, 0)


@in_virtual_time
async def test_a_failed_run_of_several_datasets() -> None:
    """Those that were through count in full."""
    of = Service(config=job("small", "last"))
    of.between.on_next("batch", None, None, None, refused(StepFailed("in the second dataset")))
    finished = await run(of)

    failed(finished, "step_failed")
    assert counts(finished) == (3, 3, 0, 0)


# -- dry runs ------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_dry_run_rejects_and_writes_nothing() -> None:
    """At no destination; the counts are those that a run would have."""
    second, tables = MemoryDestination(url="memory://second", inline_limit=0, handles="second"), MemoryTables()
    of = service(TO_NUMBERS, on_row_error="quarantine", others=[second, tables])
    finished = await run(of, dry_run=True)

    assert (finished.state, counts(finished), finished.manifest_url) == (RunState.SUCCEEDED, (5, 3, 0, 2), None)
    for each in (of.destination, second, tables):
        assert (each.objects, each.open_uploads) == ({}, [])
    assert await of.runs.history.last_success(7, "records") is None


# -- several destinations ------------------------------------------------------------------------


@in_virtual_time
async def test_several_destinations() -> None:
    """All have the rows; only the first that holds objects has the manifest and the rejected rows, and counts."""
    second, tables = MemoryDestination(url="memory://second"), MemoryTables()
    of = service(
        TO_NUMBERS, on_row_error="quarantine", compression="gzip", max_artifact_rows=2, others=[second, tables]
    )
    finished = await run(of)

    assert finished.state is RunState.SUCCEEDED
    parts = {f"{PREFIX}/records/part-0000{number}.ndjson.gz" for number in (0, 1)}
    first = set(of.destination.objects) - {INSTALLATION_KEY}
    assert first == {*parts, f"{PREFIX}/_manifest.json", f"{PREFIX}/_rejected/records/part-00000.ndjson"}
    assert set(second.objects) == {*parts, INSTALLATION_KEY}
    assert all(second.objects[key] == of.destination.objects[key] for key in parts)
    assert set(tables.objects) == {f"{PREFIX}/records", INSTALLATION_KEY}
    assert [line["id"] for line in lines(tables.objects[f"{PREFIX}/records"][0])] == [1, 3, 5]

    manifest = json.loads(of.visible()["run_id=r/_manifest.json"])
    assert [entry["url"] for entry in manifest["entries"]] == [f"{of.destination.url}/{key}" for key in sorted(parts)]
    assert manifest["rows_written"] == sum(entry["rows"] for entry in manifest["entries"]) == 3
    (content,) = tables.contents
    assert content.snapshot_at == datetime.fromisoformat(manifest["snapshot_at"]), "which tells older rows from newer"
    entries = [*manifest["entries"], *manifest["rejected"]]
    assert finished.bytes_written == sum(entry["meta"]["content_length"] for entry in entries)
    for each in (of.destination, second, tables):
        assert each.open_uploads == []
    assert of.left_over() == ([], [])


@pytest.mark.parametrize("method", ["write", "seal", "exists", "prepare"])
@in_virtual_time
async def test_a_run_that_fails_leaves_nothing_at_any_destination(method: str) -> None:
    """Wherever it failed, before its decision."""
    second, tables = MemoryDestination(url="memory://second", inline_limit=0, handles="second"), MemoryTables()
    of = service(others=[second, tables])
    of.between.on_next(method, *[None] * (2 if method in ("write", "seal") else 0), refused(StepFailed("x")))
    failed(await run(of), "step_failed")

    for each in (of.destination, second, tables):
        assert (each.open_uploads, set(each.objects) - {INSTALLATION_KEY}) == ([], set())
    assert of.left_over() == ([], [])


# -- what was covered before ---------------------------------------------------------------------


def since_last(**options: Any) -> Service:
    return Service(config=job("small", since="last_success", **options))


@in_virtual_time
async def test_since_the_last_success() -> None:
    """Everything at first; then what is newer than where the last successful run read, which is its snapshot."""
    of = since_last()
    await run(of, "a")
    await of.clock.sleep(60)
    await run(of, "b")
    await of.clock.sleep(60)
    await run(of, "c")

    assert [asked["since"] for asked in of.asked] == ["-infinity", EPOCH, EPOCH + timedelta(seconds=60)]


@in_virtual_time
async def test_an_overlap() -> None:
    """That much earlier, for rows that were committed late."""
    of = since_last(overlap="5m")
    await run(of, "a")
    await of.clock.sleep(60)
    await run(of, "b")

    assert [asked["since"] for asked in of.asked] == ["-infinity", EPOCH - timedelta(minutes=5)]


@in_virtual_time
async def test_the_requests_own_since_wins() -> None:
    """A replay of a day, say."""
    of = since_last(overlap="5m")
    await run(of, "a")
    await run(of, "b", since=EPOCH - timedelta(days=1))

    assert of.asked[1]["since"] == EPOCH - timedelta(days=1)


@in_virtual_time
async def test_a_request_up_to_a_time_covers_no_more() -> None:
    """The next run goes on from there, and one up to the future doesn't skip what comes until then."""
    of = since_last()
    await of.clock.sleep(3600)
    await run(of, "a", until=EPOCH + timedelta(minutes=10))
    await run(of, "b", until=EPOCH + timedelta(days=1))
    await run(of, "c")

    assert [asked["since"] for asked in of.asked] == [
        "-infinity",
        EPOCH + timedelta(minutes=10),
        EPOCH + timedelta(hours=1),
    ]


@pytest.mark.parametrize(
    ("own_since", "then"),
    [
        (EPOCH + timedelta(minutes=1), EPOCH),  # what came between wasn't exported
        (EPOCH, EPOCH + timedelta(hours=1)),
        (EPOCH - timedelta(days=1), EPOCH + timedelta(hours=1)),
    ],
)
@in_virtual_time
async def test_a_request_that_skips_rows_covers_none(own_since: datetime, then: datetime) -> None:
    """The next run begins where the last one without a gap has ended."""
    of = since_last()
    await run(of, "a")
    await of.clock.sleep(3600)
    await run(of, "b", since=own_since)
    await run(of, "c")

    assert of.asked[-1]["since"] == then


@in_virtual_time
async def test_a_first_request_with_a_since_covers_nothing() -> None:
    """What was before it is still to be exported."""
    of = since_last()
    await run(of, "a", since=EPOCH - timedelta(days=1))
    await run(of, "b")

    assert of.asked[-1]["since"] == "-infinity"


@pytest.mark.parametrize(("own_since", "then"), [(EPOCH, "covered"), (EPOCH + timedelta(seconds=1), "nothing")])
@in_virtual_time
async def test_a_first_request_covers_what_it_exports_from_initial_on(own_since: datetime, then: str) -> None:
    """Nothing before `initial` is to be exported, so a `since` of that time leaves no gap; a later one does."""
    of = since_last(initial=EPOCH)
    await of.clock.sleep(60)
    await run(of, "a", since=own_since)
    await run(of, "b")

    assert of.asked[-1]["since"] == (EPOCH + timedelta(seconds=60) if then == "covered" else EPOCH)


@pytest.mark.parametrize("other", ["dry", "failed", "agency"])
@in_virtual_time
async def test_what_does_not_count_as_covered(other: str) -> None:
    """A dry run, a failed run, another agency's."""
    of = since_last()
    if other == "failed":
        of.between.on_next("batch", refused(StepFailed("x")))
    await run(of, "a", dry_run=other == "dry", agency_id=8 if other == "agency" else 7)
    await of.clock.sleep(60)
    await run(of, "b")

    assert [asked["since"] for asked in of.asked][-1] == "-infinity"


@in_virtual_time
async def test_without_it_nobody_asks() -> None:
    """Nothing bounds the rows then, and the history isn't asked."""
    of = Service(config=job("small"))
    await run(of, "a")
    await run(of, "b")

    assert [asked["since"] for asked in of.asked] == ["-infinity", "-infinity"]
    assert "last_success" not in of.between.log


@in_virtual_time
async def test_it_is_asked_before_the_snapshot_is_taken() -> None:
    """A run that succeeds in between would otherwise seem to cover rows that this one doesn't see."""
    of = since_last()
    await run(of)

    log = of.between.log
    assert log.index("last_success") < log.index("snapshot")


@pytest.mark.parametrize(("most", "state"), [("50%", RunState.SUCCEEDED), ("49%", RunState.FAILED)])
@in_virtual_time
async def test_a_change_since_the_last_success(most: str, state: RunState) -> None:
    """Compared by rows written, with the last run that succeeded; a failed one changes nothing."""
    rows: dict[str, Any] = {"small": [[(1, "a"), (2, "b")]]}
    of = Service(config=job("small", expect={"max_change": most}), rows=rows)
    await run(of, "a")
    rows["small"] = [[(1, "a"), (2, "b"), (3, "c")]]
    finished = await run(of, "b")

    assert finished.state is state
    if state is RunState.FAILED:
        message = failed(finished, "expectation_failed")
        assert "'a', the last that succeeded, wrote 2" in message
        assert of.visible().keys() == {"run_id=a/_manifest.json", "run_id=a/small/part-00000.ndjson"}
