"""
A worker that is stopped for longer than its lease, another one that takes its run over and finishes it, and then the
first one, which goes on as if nothing had happened and must find that it can't change anything any more.
"""

from __future__ import annotations

import signal
import subprocess

import pytest

from tests.acceptance.service import (
    CHANGE_ROWS,
    HUGE,
    LARGE,
    Process,
    Service,
    completion,
    eventually,
    finished,
    is_stopped,
    message,
    published_in,
)

RUN = "paused-1"
SHORT_LEASE = {"PIPELINE_WORKER__LEASE_SECONDS": "1.5"}


def paused(service: Service, place: str, agency_id: int) -> Process:
    """A worker that has stopped itself there, and whose lease has ended since."""
    process = service.trapped(f"SIGSTOP@{place}", agency_id, "--run-id", RUN, env=SHORT_LEASE)
    eventually(lambda: is_stopped(process))
    service.wait_for_free(RUN)
    service.sql(CHANGE_ROWS)
    return process


def resumed(process: Process) -> subprocess.CompletedProcess[str]:
    """The same worker at its end."""
    process.send_signal(signal.SIGCONT)
    return finished(process)


@pytest.mark.parametrize(
    ("place", "agency_id", "outcomes"),
    [
        ("rows", LARGE, ["lost", "succeeded"]),
        ("part", HUGE, ["lost", "succeeded"]),
        ("verify", LARGE, ["lost", "succeeded"]),
        ("prepare", LARGE, ["succeeded"]),
        ("before complete", LARGE, ["succeeded"]),
        ("before complete*2", LARGE, ["succeeded"]),
        ("before publish", LARGE, ["succeeded"]),
        ("publish", LARGE, ["succeeded"]),
    ],
)
def test_who_comes_back_late_changes_nothing(service: Service, place: str, agency_id: int, outcomes: list[str]) -> None:
    """Bucket and history stay as the second worker left them, and the first one prints that result as its own."""
    first = paused(service, place, agency_id)
    second = service.run(agency_id, "--run-id", RUN)
    assert second.returncode == 0, second.stderr
    assert service.outcomes(RUN) == outcomes
    published_in(service, RUN, agency_id)
    before = service.everything()

    late = resumed(first)

    assert service.everything() == before
    # The run has finished, so the contract's "a finished run prints its result" holds for the late worker too.
    assert late.returncode == 0, late.stderr
    assert late.stdout == second.stdout
    assert "Traceback" not in late.stderr
    assert service.pending_uploads() == []


def test_who_comes_back_while_the_other_works_is_told_so(service: Service) -> None:
    """The run is held elsewhere then: 75, nothing printed, nothing changed, and the other one finishes."""
    first = paused(service, "verify", LARGE)
    second = service.trapped("SIGSTOP@prepare", LARGE, "--run-id", RUN)  # with the default lease of 30 s
    eventually(lambda: is_stopped(second))
    before = service.everything()

    late = resumed(first)

    assert (late.returncode, late.stdout) == (75, ""), late.stderr
    assert "is held by worker" in message(late)
    assert service.everything() == before
    other = resumed(second)
    assert other.returncode == 0, other.stderr
    assert completion(other)["attempt"] == 2
    published_in(service, RUN, LARGE)


def test_a_short_pause_changes_nothing(service: Service) -> None:
    """A worker that is stopped within its lease goes on and finishes its own first attempt."""
    process = service.trapped("SIGSTOP@stream", LARGE, "--run-id", RUN)
    eventually(lambda: is_stopped(process))

    done = resumed(process)

    assert done.returncode == 0, done.stderr
    assert service.outcomes(RUN) == ["succeeded"]
    published_in(service, RUN, LARGE)


def test_a_pause_longer_than_the_lease_without_another_worker(service: Service) -> None:
    """Nobody took over: the worker gives its stale attempt up or finishes it, and the run is published once."""
    first = paused(service, "verify", LARGE)

    done = resumed(first)

    assert done.returncode in (0, 75), done.stderr
    again = service.run(LARGE, "--run-id", RUN)
    assert again.returncode == 0, again.stderr
    published_in(service, RUN, LARGE)
    assert len(service.events(RUN)) == 1
    assert service.pending_uploads() == []
