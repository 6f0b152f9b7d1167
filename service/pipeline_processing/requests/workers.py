"""Who works: members of the consumer group and holders of leases, matched by the worker's name."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pipeline_processing.messaging.port import Member, Topics
from pipeline_processing.model import Run


class WorkerState(StrEnum):
    """Whether a worker is alive, and at work."""

    WORKING = "working"
    IDLE = "idle"
    LOST = "lost"
    """It doesn't listen, and its leases have ended: others take over its runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A process that accepts requests, or holds runs, or both."""

    name: str | None
    """None if a member of the group doesn't tell it."""
    state: WorkerState
    listens: bool
    """Whether it is a member of the group. `run` isn't, nor is `serve` while Kafka is away."""
    host: str
    """As the brokers see it; of a worker that doesn't listen, the host in its name."""
    partitions: tuple[int, ...]
    lag: int
    """Requests in its partitions that it has yet to accept."""
    runs: tuple[Run, ...]
    """The runs that it holds, oldest first."""


async def lag_of(topics: Topics, topic: str) -> dict[int, int]:
    """Return, by partition, how many records the consumer group has yet to read."""
    # In this order, so that a request accepted between the two calls isn't counted as lag.
    ends = await topics.ends(topic)
    committed = await topics.committed(topic)
    return {partition: max(0, end - committed.get(partition, 0)) for partition, end in ends.items()}


def workers_of(members: Sequence[Member], lag: dict[int, int], held: Sequence[Run], *, now: datetime) -> list[Worker]:
    """Match the members of the group with the runs that are held, at the time `now` of the database."""
    runs = defaultdict[str, list[Run]](list)
    for run in sorted(held, key=lambda run: (run.started_at or run.queued_at, run.run_id)):
        if run.worker is not None and run.lease_expires_at is not None:
            runs[run.worker].append(run)
    workers = []
    for member in members:
        mine = tuple(runs.pop(member.worker, ())) if member.worker is not None else ()
        workers.append(
            Worker(
                name=member.worker,
                state=WorkerState.WORKING if mine else WorkerState.IDLE,
                listens=True,
                host=member.host,
                partitions=member.partitions,
                lag=sum(lag.get(partition, 0) for partition in member.partitions),
                runs=mine,
            )
        )
    for name, left in runs.items():
        alive = any(run.lease_expires_at is not None and run.lease_expires_at > now for run in left)
        workers.append(
            Worker(
                name=name,
                state=WorkerState.WORKING if alive else WorkerState.LOST,
                listens=False,
                host=name.split(":", 1)[0],
                partitions=(),
                lag=0,
                runs=tuple(left),
            )
        )
    return sorted(workers, key=lambda worker: (worker.host, worker.name or ""))
