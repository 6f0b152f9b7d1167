"""Who works: the consumer group and the holders of leases, as one list."""

from __future__ import annotations

from datetime import timedelta

from pipeline_processing.messaging.port import Member, Outgoing
from pipeline_processing.model import JobRequest, Run, RunState
from pipeline_processing.requests.workers import WorkerState, lag_of, workers_of
from tests.memory.broker import MemoryBroker
from tests.unit.virtual_clock import EPOCH, VirtualClock, in_virtual_time


def held(run_id: str, worker: str, *, seconds_left: float, started: float = 0) -> Run:
    return Run(
        run_id=run_id,
        job="agency_data_job",
        agency_id=7,
        state=RunState.RUNNING,
        attempt=1,
        request=JobRequest(agency_id=7),
        queued_at=EPOCH,
        started_at=EPOCH + timedelta(seconds=started),
        worker=worker,
        lease_expires_at=EPOCH + timedelta(seconds=seconds_left),
    )


def test_members_and_leases_are_matched_by_name() -> None:
    """A worker without Kafka is known by its runs; one that has lost its leases is lost, unless it listens."""
    members = [Member("a:1:x", "10.0.0.1", (0, 2)), Member(None, "10.0.0.2", (1,)), Member("c:3:x", "10.0.0.3", ())]
    runs = [
        held("second", "a:1:x", seconds_left=20, started=2),
        held("first", "a:1:x", seconds_left=-1, started=1),
        held("alone", "d:4:x", seconds_left=20),
        held("gone", "e:5:x", seconds_left=-1),
    ]

    found = workers_of(members, {0: 5, 1: 7, 2: 1}, runs, now=EPOCH)

    assert [(each.name, each.host, each.state, each.listens, each.lag) for each in found] == [
        ("a:1:x", "10.0.0.1", WorkerState.WORKING, True, 6),
        (None, "10.0.0.2", WorkerState.IDLE, True, 7),
        ("c:3:x", "10.0.0.3", WorkerState.IDLE, True, 0),
        ("d:4:x", "d", WorkerState.WORKING, False, 0),
        ("e:5:x", "e", WorkerState.LOST, False, 0),
    ]
    assert [[run.run_id for run in each.runs] for each in found] == [["first", "second"], [], [], ["alone"], ["gone"]]


@in_virtual_time
async def test_the_lag_counts_what_no_member_has_committed() -> None:
    """By partition; all of it, if nobody has read anything yet."""
    kafka = MemoryBroker(clock=VirtualClock(), topics=("requests",), partitions=1)
    await kafka.send([Outgoing("requests", b"1", b"x"), Outgoing("requests", b"1", b"y")])
    assert await lag_of(kafka, "requests") == {0: 2}

    kafka.committed_by_member("requests", {0: 1})
    assert await lag_of(kafka, "requests") == {0: 1}
