"""
A worker that is killed right after each step of a run's life, and the next worker, which goes on.

The table in the design says what must come of it. Between the two the source's rows change, so that what was
published shows when it was read.
"""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.acceptance.service import (
    CHANGE_ROWS,
    HUGE,
    LARGE,
    PREFIX,
    Service,
    completion,
    dataset_rows,
    eventually,
    files_in,
    finished,
    is_stopped,
    message,
    published,
    published_in,
    staged_in,
)

RUN = "killed-1"
SHORT_LEASE = {"PIPELINE_WORKER__LEASE_SECONDS": "1.5"}


def killed(service: Service, place: str, agency_id: int = LARGE, run_id: str = RUN) -> None:
    """A run whose worker kills itself there, before the source's rows change."""
    done = finished(service.trapped(f"SIGKILL@{place}", agency_id, "--run-id", run_id, env=SHORT_LEASE))
    assert done.returncode == -signal.SIGKILL, (done.returncode, done.stderr)
    assert done.stdout == ""
    service.sql(CHANGE_ROWS)


def gone_on(service: Service, agency_id: int = LARGE, run_id: str = RUN) -> dict[str, Any]:
    """The completion that the next worker prints once the lease has ended."""
    service.wait_for_free(run_id)
    done = service.run(agency_id, "--run-id", run_id)
    assert done.returncode == 0, done.stderr
    return completion(done)


def visible(service: Service) -> set[str]:
    """What a reader sees of runs, below the run's own folder."""
    folder = f"{PREFIX}/agency_id={LARGE}/run_id={RUN}/"
    return {key.removeprefix(folder) for key in service.listed() if key != f"{PREFIX}/_installation.json"}


def versions(service: Service, manifest: dict[str, Any]) -> set[str]:
    """Which versions of the source's rows were published, over all datasets."""
    rows = [row for name in ("records", "documents", "payments") for row in dataset_rows(service, manifest, name)]
    return {version for version in ("v1", "v2") for row in rows if version in json.dumps(row)}


def holds_the_promises(service: Service, told: dict[str, Any], agency_id: int = LARGE, run_id: str = RUN) -> Any:
    """Exactly one manifest, one outbox event, all as printed, nothing left behind. The manifest."""
    manifest = published_in(service, run_id, agency_id)
    manifests = [key for key in service.listed() if key.endswith("_manifest.json")]
    assert len(manifests) == 1
    assert told["manifest"] == f"s3://{service.bucket}/{manifests[0]}"
    run = service.history(run_id)
    assert (run["state"], run["attempt"]) == ("succeeded", manifest["attempt"])
    assert (told["state"], told["attempt"]) == ("succeeded", manifest["attempt"])
    # Announcing is Kafka's part: without a `serve` the event waits, there exactly once.
    (event,) = service.events(run_id)
    assert json.loads(event["value"]) == told
    assert event["sent_at"] is None
    assert service.pending_uploads() == []
    assert service.recorded_uploads() == []
    assert service.sql("SELECT FROM pipeline.plans") == []
    return manifest


def test_killed_after_accept(service: Service) -> None:
    """The run is queued, without an attempt and free at once; the next worker makes the first one."""
    killed(service, "accept")

    assert (service.state(RUN), service.outcomes(RUN), visible(service)) == ("queued", [], set())

    manifest = holds_the_promises(service, gone_on(service))
    assert service.outcomes(RUN) == ["succeeded"]
    assert versions(service, manifest) == {"v2"}


# The worker dies in the first attempt, still undecided: nothing of it is ever seen, and the rows are read again.
@pytest.mark.parametrize(
    ("step", "pending", "keys"),
    [
        ("claim", 0, set()),
        ("stream", 1, set()),
        ("verify", 1, {f"{PREFIX}/_installation.json"}),
    ],
)
def test_killed_before_the_decision(service: Service, step: str, pending: int, keys: set[str]) -> None:
    """A reader sees nothing of the lost attempt; the next one reads anew, and leaves no upload of the first."""
    killed(service, step)

    assert (service.state(RUN), service.outcomes(RUN)) == ("running", ["running"])
    assert set(service.listed()) == keys
    assert len(service.pending_uploads()) == len(service.recorded_uploads()) == pending
    assert service.events(RUN) == []

    manifest = holds_the_promises(service, gone_on(service))
    assert service.outcomes(RUN) == ["lost", "succeeded"]
    assert manifest["attempt"] == 2
    assert versions(service, manifest) == {"v2"}
    first, second = service.attempts(RUN)
    assert first["fence"] < second["fence"]
    assert second["trace_id"] == manifest["trace_id"] == service.history(RUN)["trace_id"]


def test_killed_while_parts_are_streamed(service: Service) -> None:
    """The half of an artifact that was uploaded stays invisible, and is removed by the next worker."""
    killed(service, "part", HUGE)

    assert service.state(RUN) == "running"
    assert service.listed() == []
    ((key, upload_id),) = service.pending_uploads()
    assert key == f"{PREFIX}/agency_id={HUGE}/run_id={RUN}/documents/part-00000.ndjson"
    assert [upload["upload_id"] for upload in service.recorded_uploads()] == [upload_id]

    manifest = holds_the_promises(service, gone_on(service, HUGE), HUGE)
    assert service.outcomes(RUN) == ["lost", "succeeded"]
    assert versions(service, manifest) == {"v2"}


# The run is decided: whoever comes next publishes the stored plan and reads nothing.
@pytest.mark.parametrize(
    ("place", "seen"),
    [
        ("prepare", set()),
        ("complete one", {"documents/part-00000.ndjson"}),
        (
            "complete",
            {"documents/part-00000.ndjson", "records/part-00000.ndjson", "payments/part-00000.csv"},
        ),
        (
            "publish",
            {
                "documents/part-00000.ndjson",
                "records/part-00000.ndjson",
                "payments/part-00000.csv",
                "_manifest.json",
            },
        ),
    ],
)
def test_killed_after_the_decision(service: Service, place: str, seen: set[str]) -> None:
    """Artifacts appear in plan order, uploads first; the next worker adds what is missing, from the old rows."""
    killed(service, place)

    assert (service.state(RUN), service.outcomes(RUN)) == ("prepared", ["prepared"])
    assert visible(service) == seen
    assert service.events(RUN) == []
    before = service.objects()

    manifest = holds_the_promises(service, gone_on(service))
    assert service.outcomes(RUN) == ["succeeded"], "taking over a prepared run isn't another attempt"
    assert manifest["attempt"] == 1
    assert versions(service, manifest) == {"v1"}
    after = service.objects()
    assert {key: after[key] for key in before} == before, "what was visible is never written again"


def test_a_prepared_run_needs_no_source(service: Service) -> None:
    """The decision outlives the database it was read from, and the job config too."""
    killed(service, "prepare")
    service.sql("DROP TABLE records; DROP TABLE documents; DROP TABLE payments;")

    manifest = holds_the_promises(service, gone_on(service))

    assert versions(service, manifest) == {"v1"}


def test_killed_after_finish(service: Service) -> None:
    """All is done but the announcement, which is in the outbox once; the next worker prints the result, no more."""
    killed(service, "finish")
    before = service.everything()
    assert service.state(RUN) == "succeeded"

    manifest = holds_the_promises(service, gone_on(service))

    assert versions(service, manifest) == {"v1"}
    assert service.everything() == before


def test_killed_again_and_again(service: Service) -> None:
    """A run that loses one worker after the other ends as one run all the same, whole and once."""
    for place in ("stream", "verify", "complete one", "publish"):
        if service.state(RUN) is not None:
            service.wait_for_free(RUN)
        done = finished(service.trapped(f"SIGKILL@{place}", LARGE, "--run-id", RUN, env=SHORT_LEASE))
        assert done.returncode == -signal.SIGKILL, (place, done.stderr)

    manifest = holds_the_promises(service, gone_on(service))
    assert manifest["attempt"] == 3
    assert service.outcomes(RUN) == ["lost", "lost", "succeeded"]


def test_while_the_lease_lives_the_run_is_held(service: Service) -> None:
    """Who asks for the run before the dead worker's lease has ended is told that it is held, and changes nothing."""
    done = finished(service.trapped("SIGKILL@stream", LARGE, "--run-id", RUN))
    assert done.returncode == -signal.SIGKILL
    before = service.everything()

    again = service.run(LARGE, "--run-id", RUN)

    assert (again.returncode, again.stdout) == (75, "")
    assert f"Run '{RUN}' is held by worker" in message(again)
    assert service.everything() == before


def test_a_dead_workers_lease_doesnt_keep_the_agency_for_long(service: Service) -> None:
    """Another run of the same agency waits for the lease of the dead one to end, and then goes on."""
    killed(service, "stream")

    done = service.run(LARGE, "--run-id", "another-1")

    assert done.returncode == 0, done.stderr
    assert service.state(RUN) == "running"
    published_in(service, "another-1", LARGE)


def test_a_run_whose_worker_died_waits_for_its_agencys_other_run(service: Service) -> None:
    """Nobody holds it then, so it isn't refused: it takes its turn once the other run has finished."""
    killed(service, "claim")
    other = service.trapped("SIGSTOP@stream", LARGE, "--run-id", "other-1")
    eventually(lambda: is_stopped(other))
    known = {row["pid"] for row in service.sql("SELECT pid FROM pg_stat_activity")}
    waiting = service.start_run(LARGE, "--run-id", RUN)
    asked: set[object] = set()

    def asks_again_and_again() -> bool:
        activity = service.sql("SELECT pid, query_start FROM pg_stat_activity WHERE datname = current_database()")
        asked.update(row["query_start"] for row in activity if row["pid"] not in known)
        return len(asked) > 10 or waiting.poll() is not None

    eventually(asks_again_and_again)

    other.send_signal(signal.SIGCONT)

    assert finished(other).returncode == 0
    done = finished(waiting)
    assert done.returncode == 0, done.stderr
    assert service.attempts("other-1")[0]["finished_at"] <= service.attempts(RUN)[1]["started_at"]


@pytest.mark.parametrize(
    ("place", "attempt", "version"),
    [("stream", 2, "v2"), ("prepare", 1, "v1"), ("complete", 1, "v1"), ("publish", 1, "v1")],
)
def test_killed_on_the_way_to_a_folder(service: Service, place: str, attempt: int, version: str) -> None:
    """The same holds for a `file://` destination: hidden until decided, then only ever completed."""
    folder = service.to_folder()
    killed(service, place)
    if place in ("stream", "prepare"):
        assert set(files_in(folder)) <= {"_installation.json"}
    before = files_in(folder)

    told = gone_on(service)

    manifest = published(files_in(folder), RUN, LARGE, folder.as_uri())
    assert told["attempt"] == manifest["attempt"] == attempt
    rows = (folder / f"agency_id={LARGE}/run_id={RUN}/records/part-00000.ndjson").read_text()
    assert version in rows
    assert {"v1", "v2"} - {version} == {v for v in ("v1", "v2") if v not in rows}
    assert {key: files_in(folder)[key] for key in before} == before
    assert staged_in(folder) == []
    assert service.recorded_uploads() == []
    assert len(service.events(RUN)) == 1
