"""Datasets of several artifacts, as a reader of the bucket sees them: whole, in order, and none of a lost attempt."""

from __future__ import annotations

import json
import signal

from tests.acceptance.service import (
    CHANGE_ROWS,
    HUGE,
    JOB,
    LARGE,
    PREFIX,
    Service,
    changed,
    completion,
    dataset_rows,
    finished,
    one_dataset,
    published_in,
)

RUN = "rotated-1"
MIB = 1024 * 1024


def test_three_datasets_rotate_by_rows_each_on_its_own(service: Service) -> None:
    """No artifact has more rows than its dataset's limit, every one before the last has just as many, in order."""
    job = changed(
        JOB,
        records={"max_artifact_rows": 3},
        documents={"max_artifact_rows": 1000, "compression": "zstd"},
        payments={"max_artifact_rows": 1},
    )

    plain = service.run(LARGE, "--run-id", "plain-1")
    done = service.run(LARGE, "--run-id", RUN, "--config", service.job_config(job))

    assert (plain.returncode, done.returncode) == (0, 0), done.stderr
    before, after = published_in(service, "plain-1", LARGE), published_in(service, RUN, LARGE)
    assert [(entry["dataset"], entry["rows"]) for entry in after["entries"]] == [
        *(("records", rows) for rows in (3, 3, 3, 1)),
        *(("documents", rows) for rows in (1000, 1000, 600)),
        *(("payments", 1) for _ in range(4)),
    ]
    for dataset in ("documents", "payments"):  # records name their run
        assert dataset_rows(service, after, dataset) == dataset_rows(service, before, dataset)
    assert [row["id"] for row in dataset_rows(service, after, "records")] == [
        row["id"] for row in dataset_rows(service, before, "records")
    ]
    assert completion(done)["bytes_written"] == sum(entry["meta"]["content_length"] for entry in after["entries"])
    assert service.pending_uploads() == []
    assert service.recorded_uploads() == []


def test_artifacts_rotate_by_their_compressed_size(service: Service) -> None:
    """Each is a whole gzip file of at most the limit, and well filled; together they have every row once, in order."""
    digits = "SELECT string_agg(md5(n * 1000 + k || ''), '') FROM generate_series(1, 40) AS k"
    query = f"SELECT n AS id, ({digits}) AS body FROM generate_series(1, 9000) AS n ORDER BY n"
    job = one_dataset(query, args=(), compression="gzip", max_artifact_mib=2)

    done = service.run(LARGE, "--run-id", RUN, "--config", service.job_config(job))

    assert done.returncode == 0, done.stderr
    manifest = published_in(service, RUN, LARGE)
    sizes = [entry["meta"]["content_length"] for entry in manifest["entries"]]
    assert len(sizes) >= 3
    assert max(sizes) <= 2 * MIB
    assert min(sizes[:-1]) > MIB // 2
    assert [row["id"] for row in dataset_rows(service, manifest, "records")] == list(range(1, 9001))


def test_killed_in_the_middle_of_the_third_artifact(service: Service) -> None:
    """A reader sees nothing of the two that were finished; the next worker reads anew, and leaves none of them."""
    job = changed(JOB, documents={"max_artifact_mib": 4})
    options = ("--run-id", RUN, "--config", service.job_config(job))
    lease = {"PIPELINE_WORKER__LEASE_SECONDS": "1.5"}

    killed = finished(service.trapped("SIGKILL@part", HUGE, *options, env=lease))  # 9 MiB into it

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert service.listed() == []
    folder = f"{PREFIX}/agency_id={HUGE}/run_id={RUN}"
    begun = {f"{folder}/documents/part-0000{number}.ndjson" for number in range(2)}  # the third is in memory still
    assert {key for key, _ in service.pending_uploads()} == begun
    assert {upload["key"] for upload in service.recorded_uploads()} == {key.removeprefix(f"{PREFIX}/") for key in begun}

    service.sql(CHANGE_ROWS)
    service.wait_for_free(RUN)
    done = service.run(HUGE, *options)

    assert done.returncode == 0, done.stderr
    manifest = published_in(service, RUN, HUGE)
    assert (manifest["attempt"], service.outcomes(RUN)) == (2, ["lost", "succeeded"])
    documents = [entry for entry in manifest["entries"] if entry["dataset"] == "documents"]
    sizes = [entry["meta"]["content_length"] for entry in documents]
    assert max(sizes) <= 4 * MIB
    assert min(sizes[:-1]) > 2 * MIB, "room for a batch, which ends where data happened to arrive"
    rows = dataset_rows(service, manifest, "documents")
    assert [row["id"] for row in rows] == [HUGE * 100_000 + number for number in range(1, 4401)]
    assert "v1" not in json.dumps([row["title"] for row in rows])
    assert service.pending_uploads() == []
    assert service.recorded_uploads() == []
    assert len(service.events(RUN)) == 1
