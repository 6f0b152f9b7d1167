"""`cancel`, `gc` and `history prune` beside workers that are killed, paused, or at work, on real servers."""

from __future__ import annotations

import json
import signal
import subprocess
from uuid import uuid4

import pytest

from tests.acceptance.kafka_side import Messages
from tests.acceptance.service import (
    HUGE,
    LARGE,
    PREFIX,
    SLOW_QUERY,
    SMALL,
    Process,
    Service,
    completion,
    eventually,
    finished,
    is_stopped,
    message,
    one_dataset,
    published_in,
    staged_in,
)

RUN = "orphaned-1"
SHORT_LEASE = {"PIPELINE_WORKER__LEASE_SECONDS": "1.5"}
LEFTOVER = f"{PREFIX}/agency_id={SMALL}/run_id={{}}/records/part-00000.ndjson"


def killed(service: Service, place: str, agency_id: int = HUGE, run_id: str = RUN) -> None:
    """A run whose worker kills itself there."""
    done = finished(service.trapped(f"SIGKILL@{place}", agency_id, "--run-id", run_id, env=SHORT_LEASE))
    assert done.returncode == -signal.SIGKILL, (done.returncode, done.stderr)


def stopped(service: Service, place: str, agency_id: int = HUGE, run_id: str = RUN) -> Process:
    """A run whose worker stands still there, in the middle of its lease."""
    process = service.trapped(f"SIGSTOP@{place}", agency_id, "--run-id", run_id)
    eventually(lambda: is_stopped(process))
    return process


def resumed(process: Process) -> subprocess.CompletedProcess[str]:
    """The same worker at its end."""
    process.send_signal(signal.SIGCONT)
    return finished(process)


def cancelled(service: Service, run_id: str = RUN) -> None:
    done = service.cli("cancel", run_id)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{run_id} is cancelled.")
    assert service.state(run_id) == "cancelled"


def gc(service: Service, *options: str) -> list[str]:
    """What a `gc` that goes well prints."""
    done = service.cli("gc", *options)
    assert (done.returncode, "Error" in done.stderr) == (0, False), done.stderr
    return done.stdout.splitlines()


def uploaded(service: Service, run_id: str, name: str = LEFTOVER) -> tuple[str, str]:
    """An upload with a part, from somebody who never came to record it; its key and id."""
    key = name.format(run_id)
    upload_id = service.s3.create_multipart_upload(Bucket=service.bucket, Key=key)["UploadId"]
    service.s3.upload_part(Bucket=service.bucket, Key=key, UploadId=upload_id, PartNumber=1, Body=b"x")
    return key, upload_id


# -- cancel --------------------------------------------------------------------------------------


def test_a_run_at_work_is_cancelled_within_seconds(service: Service) -> None:
    """Its worker stops, cleans up and exits with 79; nothing of it is ever visible, and one event says so."""
    config = service.job_config(one_dataset(SLOW_QUERY))
    process = service.start_run(HUGE, "--run-id", RUN, "--config", config)
    eventually(service.pending_uploads)

    cancelled(service)

    done = finished(process, seconds=15)
    assert done.returncode == 79, done.stderr
    assert completion(done)["state"] == "cancelled"
    assert (service.pending_uploads(), service.recorded_uploads(), service.listed()) == ([], [], [])
    (event,) = service.events(RUN)
    assert json.loads(event["value"]) == completion(done)
    assert gc(service) == ["removed  nothing"]


def test_only_a_run_that_isnt_decided_can_be_cancelled(service: Service) -> None:
    """1 and its state, and it stays as it is; 65 for a run that there isn't."""
    killed(service, "prepare", LARGE)
    assert service.run(SMALL, "--run-id", "done-1").returncode == 0
    before = service.everything()
    for run_id, state in ((RUN, "prepared"), ("done-1", "succeeded")):
        refused = service.cli("cancel", run_id)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert f"'{run_id}' is {state}" in message(refused)
    unknown = service.cli("cancel", "no-such-run")
    assert (unknown.returncode, unknown.stdout) == (65, "")
    assert "no-such-run" in message(unknown)
    assert service.everything() == before


# -- uploads -------------------------------------------------------------------------------------


def test_uploads_of_a_run_that_was_killed_and_cancelled_are_removed(service: Service) -> None:
    """Before it is cancelled they may be needed: its worker might only be paused."""
    killed(service, "part")
    service.wait_for_free(RUN)
    pending = service.pending_uploads()
    assert len(pending) == len(service.recorded_uploads()) == 1
    assert gc(service) == ["removed  nothing", "left     1 upload that runs may still complete"]
    assert service.pending_uploads() == pending

    cancelled(service)
    assert gc(service, "--dry-run") == ["would remove  1 upload"]
    assert service.pending_uploads() == pending
    assert gc(service) == ["removed  1 upload"]

    assert (service.pending_uploads(), service.recorded_uploads(), service.listed()) == ([], [], [])
    assert gc(service) == ["removed  nothing"]


@pytest.mark.parametrize("place", ["part", "verify", "prepare", "before complete"])
def test_uploads_of_a_live_run_stay(service: Service, place: str) -> None:
    """Wherever its worker is: it goes on, and publishes what it had uploaded."""
    worker = stopped(service, place)
    pending = service.pending_uploads()
    assert pending

    assert gc(service) == ["removed  nothing", f"left     {len(pending)} upload that runs may still complete"]

    assert service.pending_uploads() == pending
    done = resumed(worker)
    assert done.returncode == 0, done.stderr
    assert completion(done)["attempt"] == 1
    published_in(service, RUN, HUGE)
    assert gc(service) == ["removed  nothing"]


def test_a_decided_run_whose_worker_died_keeps_its_uploads(service: Service) -> None:
    """Whoever comes next completes them."""
    killed(service, "prepare", LARGE)
    service.wait_for_free(RUN)

    assert gc(service) == ["removed  nothing", "left     1 upload that runs may still complete"]

    done = service.run(LARGE, "--run-id", RUN)
    assert done.returncode == 0, done.stderr
    assert completion(done)["attempt"] == 1
    published_in(service, RUN, LARGE)


def test_an_upload_that_nobody_recorded_goes_by_its_run(service: Service) -> None:
    """Of a run that has ended or waits it is removed, of one at work it stays, of an unknown one it is left alone."""
    assert service.run(SMALL, "--run-id", "succeeded-1").returncode == 0
    killed(service, "accept", LARGE, "queued-1")
    killed(service, "claim", LARGE, "cancelled-1")
    cancelled(service, "cancelled-1")
    worker = stopped(service, "claim", HUGE, "running-1")
    gone = [uploaded(service, run_id) for run_id in ("succeeded-1", "queued-1", "cancelled-1")]
    in_use = uploaded(service, "running-1")
    unknown = [uploaded(service, "unknown-1"), uploaded(service, "", f"{PREFIX}/elsewhere")]
    neighbour = uploaded(service, "succeeded-1", f"{PREFIX}-2/{LEFTOVER}")
    assert len(service.pending_uploads()) == len(gone) + 4

    assert gc(service) == [
        "removed  3 uploads",
        "left     1 upload that runs may still complete",
        "left     2 uploads of no run in this history: on S3 the bucket's lifecycle rule removes them",
    ]

    assert sorted(service.pending_uploads()) == sorted([in_use, *unknown, neighbour])
    assert resumed(worker).returncode == 0


def test_uploads_at_another_destination_are_left_to_a_gc_there(service: Service) -> None:
    """They stay in the history, and are told, until then."""
    killed(service, "part")
    cancelled(service)
    old = service.destination
    folder = service.to_folder()

    assert gc(service) == [
        "removed  nothing",
        f"left     1 upload at {old}: only `gc` with that destination removes them",
    ]
    assert len(service.pending_uploads()) == len(service.recorded_uploads()) == 1
    assert list(folder.iterdir()) == []

    service.environment["PIPELINE_DESTINATION"] = old
    assert gc(service) == ["removed  1 upload"]
    assert (service.pending_uploads(), service.recorded_uploads()) == ([], [])


def test_staged_files_are_removed_too(service: Service) -> None:
    """Recorded or not; those of a live run stay."""
    folder = service.to_folder()
    killed(service, "part", HUGE)
    killed(service, "part", HUGE, "unrecorded-1")
    worker = stopped(service, "part", HUGE, "live-1")
    for run_id in (RUN, "unrecorded-1"):
        cancelled(service, run_id)
    service.sql("DELETE FROM pipeline.uploads WHERE run_id = 'unrecorded-1'")
    live = [name for name in staged_in(folder) if "live-1" in name]
    assert 0 < len(live) < len(staged_in(folder))

    removed, left = gc(service)

    assert removed.startswith("removed")
    assert left == f"left     {len(live)} uploads that runs may still complete"
    assert staged_in(folder) == live
    assert resumed(worker).returncode == 0
    assert staged_in(folder) == []


# -- failed plans --------------------------------------------------------------------------------


def test_objects_of_a_failed_plan_are_removed(service: Service) -> None:
    """The worker that failed the run died before it had deleted them; somebody else's manifest stays."""
    killed(service, "complete", LARGE)
    manifest = f"{PREFIX}/agency_id={LARGE}/run_id={RUN}/_manifest.json"
    service.s3.put_object(Bucket=service.bucket, Key=manifest, Body=b"not ours")
    service.wait_for_free(RUN)
    killed(service, "before delete", LARGE)
    assert service.state(RUN) == "failed"
    assert service.history(RUN)["error_kind"] == "conflicting_objects"
    assert len([key for key in service.listed() if RUN in key]) == 4

    removed, *left = gc(service)

    assert removed.endswith("the objects of 1 failed run")
    assert left == []
    assert [key for key in service.listed() if RUN in key] == [manifest]
    assert service.objects()[manifest].body == b"not ours"
    assert (service.pending_uploads(), service.recorded_uploads()) == ([], [])
    assert service.sql("SELECT FROM pipeline.plans") == []
    assert gc(service) == ["removed  nothing"]


def test_a_worker_that_fails_a_plan_leaves_nothing_to_gc(service: Service) -> None:
    """It removes objects, uploads and plan itself."""
    killed(service, "complete one", LARGE)
    manifest = f"{PREFIX}/agency_id={LARGE}/run_id={RUN}/_manifest.json"
    service.s3.put_object(Bucket=service.bucket, Key=manifest, Body=b"not ours")
    service.wait_for_free(RUN)

    failed = service.run(LARGE, "--run-id", RUN)

    assert failed.returncode == 1, failed.stderr
    assert [key for key in service.listed() if RUN in key] == [manifest]
    assert service.sql("SELECT FROM pipeline.plans") == []
    assert gc(service) == ["removed  nothing"]


# -- refusals ------------------------------------------------------------------------------------


def test_anothers_prefix_isnt_touched(service: Service) -> None:
    """78: its runs may have the same ids."""
    killed(service, "part")
    cancelled(service)
    service.s3.put_object(
        Bucket=service.bucket,
        Key=f"{PREFIX}/_installation.json",
        Body=json.dumps({"installation_id": str(uuid4())}).encode(),
    )
    before = service.everything()

    refused = service.cli("gc")

    assert (refused.returncode, refused.stdout) == (78, "")
    assert "belongs to the installation" in message(refused)
    assert service.everything() == before


def test_whoever_may_not_remove_is_told_so(service: Service) -> None:
    """77 with the rights that are needed; all stays, and is still in the history."""
    killed(service, "part")
    cancelled(service)
    before = service.everything()
    server = service.servers.seaweedfs

    refused = service.cli(
        "gc",
        env={
            "PIPELINE_S3__ACCESS_KEY_ID": server.readonly_access_key_id,
            "PIPELINE_S3__SECRET_ACCESS_KEY": server.readonly_secret_access_key,
        },
    )

    assert refused.returncode == 77, (refused.stdout, refused.stderr)
    assert refused.stdout.startswith("removed  nothing\n")
    assert "s3:AbortMultipartUpload" in message(refused)
    assert service.everything() == before
    assert gc(service) == ["removed  1 upload"]


@pytest.mark.parametrize(
    ("missing", "code"),
    [
        ({"PIPELINE_DESTINATION": None}, 78),
        ({"PIPELINE_DESTINATION": "s3://no-such-bucket/x"}, 78),
        ({"PIPELINE_S3__ENDPOINT_URL": "http://127.0.0.1:9"}, 69),
        ({"PIPELINE_HISTORY__DSN": "postgresql://app@127.0.0.1:9/nowhere"}, 69),
    ],
    ids=["no destination", "no bucket", "no S3", "no history"],
)
def test_servers_that_arent_there_are_told(service: Service, missing: dict[str, str | None], code: int) -> None:
    """With the exit codes of every other command."""
    refused = service.cli("gc", env=missing)
    assert (refused.returncode, refused.stdout) == (code, "")
    assert message(refused)


# -- history prune -------------------------------------------------------------------------------


def test_a_pruned_run_is_never_run_again(service: Service, messages: Messages) -> None:
    """Its command prints the same result, its message sends the same event, and another request for it is refused."""
    request = {"agency_id": SMALL, "run_id": "old-1"}
    messages.send(request)
    assert service.cli("serve", "--once").returncode == 0
    asked = ["--run-id", "old-1"]
    done = service.run(SMALL, *asked)
    [event] = messages.completions("old-1")

    assert service.cli("history", "prune", "--before", "0s").stdout.splitlines()[0] == "removed  0 runs"  # last success
    service.run(SMALL, "--run-id", "newer-1")
    messages.send(request)
    assert service.cli("serve", "--once").returncode == 0
    assert service.cli("history", "prune", "--before", "0s").stdout.splitlines()[0] == "removed  1 run"
    assert service.state("old-1") is None

    again = service.run(SMALL, *asked)
    assert (again.returncode, again.stdout) == (done.returncode, done.stdout)
    assert service.run(SMALL + 1, *asked).returncode == 65
    messages.send(request)
    assert service.cli("serve", "--once").returncode == 0
    assert service.state("old-1") is None
    events = messages.completions("old-1")
    assert len(events) == 3
    assert all((each.headers, each.value) == (event.headers, event.value) for each in events)
