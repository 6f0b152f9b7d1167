"""
A container whose root is read-only: a process that may write to no file works, but for what needs temporary files.

A limit of no bytes a file stands for it, since a test may be root's, whom no permission stops.
"""

from __future__ import annotations

import subprocess
import sys

from tests.acceptance.service import HUGE, SMALL, Service, changed, completion, one_dataset, published_in
from tests.acceptance.service import JOB as PLAIN

ALL = "SELECT * FROM records WHERE agency_id = $1 ORDER BY id"
UNIQUE = changed(PLAIN, records={"expect": {"unique": ["id"]}})
DEDUPED = one_dataset(ALL, steps=[{"dedupe": {"by": ["id"]}}])


def without_files(service: Service, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A command that can't write a single byte to any file."""
    command = [sys.executable, "-m", "pipeline_processing.cli.main", *map(str, arguments)]
    return subprocess.run(
        ["sh", "-c", 'ulimit -f 0 && exec "$@"', "sh", *command],
        env=service.environment,
        cwd=service.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_run_writes_to_its_servers_only(service: Service) -> None:
    """Also one of several parts."""
    done = without_files(service, "run", "agency_data_job", "--agency-id", HUGE, "--run-id", "run-1", "--json")

    assert done.returncode == 0, done.stderr
    assert completion(done)["state"] == "succeeded"
    published_in(service, "run-1", HUGE)


def test_what_needs_temporary_files_says_so_at_the_start(service: Service) -> None:
    """78, before the run id is spent, and `config check` knows as well: the message says what to mount."""
    deduped, unique = service.job_config(DEDUPED), service.job_config(UNIQUE)
    run = ("run", "agency_data_job", "--agency-id", SMALL, "--run-id", "run-1", "--config", deduped)
    for arguments in (run, (*run, "--dry-run"), ("config", "check", "--connect", "--config", unique)):
        done = without_files(service, *arguments)
        assert done.returncode == 78, done.stderr
        assert "Can't make a temporary file" in done.stderr
        assert "TMPDIR" in done.stderr
        assert "bug" not in done.stderr
    assert service.state("run-1") is None

    # The same job with a folder for temporary files.
    done = service.run(SMALL, "--run-id", "run-1", "--config", deduped)
    assert done.returncode == 0, done.stderr
