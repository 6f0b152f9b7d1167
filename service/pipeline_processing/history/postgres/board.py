"""What the board reads, on Postgres. The SQL is in `board.sql`."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

from pipeline_processing.agency_keys import AgencyId, number_of
from pipeline_processing.history.postgres.database import PostgresPort
from pipeline_processing.history.postgres.rows import agency_of, attempt_of, dataset_counts_of, plan_of, run_of
from pipeline_processing.model import RunState
from pipeline_processing.plan import Plan
from pipeline_processing.postgres.queries import load_queries
from pipeline_processing.runs.board_reads import (
    Bucket,
    Changes,
    FailureGroup,
    FinishedRun,
    QueueState,
    RunStory,
    StoredArtifact,
    StoredEvent,
    Throughput,
    Typical,
    Waiting,
)
from pipeline_processing.runs.deliveries import Delivery

QUERIES = load_queries(__package__, "board.sql")

_QUEUE_COLUMNS = {each.name for each in fields(QueueState)} - {"oldest_waiting", "finished"}
_MOST_REPLAYS = 20
_MOST_ARTIFACTS = 1_000
_MOST_AGENCIES = 5


class PostgresBoard(PostgresPort):
    """`BoardReads` on Postgres."""

    async def queue_state(self) -> QueueState:
        row = await self._database.row(QUERIES["queue_state"])
        oldest = None
        if row["oldest_run_id"] is not None:
            oldest = Waiting(row["oldest_run_id"], agency_of(row), row["oldest_queued_at"])
        return QueueState(
            **{name: row[name] for name in _QUEUE_COLUMNS},
            oldest_waiting=oldest,
            finished={state: row[state.value] for state in RunState if state.finished},
        )

    async def changes(self, *, since: datetime, watched: Sequence[str], limit: int) -> Changes:
        rows = await self._database.rows(QUERIES["changes"], since=since, watched=list(watched), limit=limit)
        runs = [run_of(row) for row in rows]
        kinds = (
            sum(not run.state.finished and run.state is not RunState.QUEUED for run in runs),
            sum(run.queued_at > since for run in runs),
            sum(run.finished_at is not None and run.finished_at > since for run in runs),
        )
        return Changes(runs, complete=max(kinds) < limit)

    async def story(self, run_id: str) -> RunStory | None:
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(*QUERIES["run"](run_id=run_id))
            if row is None:
                return None
            artifacts = [
                StoredArtifact(**dict(each))
                for each in await connection.fetch(*QUERIES["artifacts"](run_id=run_id, limit=_MOST_ARTIFACTS))
            ]
            plan = await connection.fetchval(*QUERIES["plan"](run_id=run_id))
            return RunStory(
                run=run_of(row),
                attempts=[attempt_of(each) for each in await connection.fetch(*QUERIES["attempts"](run_id=run_id))],
                datasets=[
                    dataset_counts_of(each) for each in await connection.fetch(*QUERIES["datasets"](run_id=run_id))
                ],
                artifacts=artifacts if plan is None else _artifacts_of(plan_of(plan)),
                events=[StoredEvent(*each) for each in await connection.fetch(*QUERIES["events"](run_id=run_id))],
                deliveries=[
                    Delivery(**{name: each[name] for name in Delivery.model_fields})
                    for each in await connection.fetch(*QUERIES["deliveries"](run_id=run_id))
                ],
                replays=[
                    run_of(each)
                    for each in await connection.fetch(*QUERIES["replays"](run_id=run_id, limit=_MOST_REPLAYS))
                ],
            )

    async def durations(self, agency_ids: Sequence[AgencyId], *, limit: int) -> dict[AgencyId, list[FinishedRun]]:
        rows = await self._database.rows(QUERIES["durations"], **_columns(agency_ids), limit=limit)
        asked = {str(each): each for each in agency_ids}
        found = defaultdict[AgencyId, list[FinishedRun]](list)
        for row in rows:
            found[asked[row["agency"]]].append(
                FinishedRun(row["run_id"], row["finished_at"], row["duration_ms"], RunState(row["state"]))
            )
        return dict(found)

    async def typical(self, agency_ids: Sequence[AgencyId]) -> dict[AgencyId, Typical]:
        rows = await self._database.rows(QUERIES["typical"], **_columns(agency_ids))
        asked = {str(each): each for each in agency_ids}
        return {asked[row["agency"]]: Typical(row["runs"], row["duration_ms"], row["rows_read"]) for row in rows}

    async def failures(self, *, window: timedelta) -> list[FailureGroup]:
        return [
            FailureGroup(
                error_kind=row["error_kind"],
                count=row["runs"],
                replayed=row["replayed"],
                agencies=row["agencies"],
                agency_ids=_agencies(row)[:_MOST_AGENCIES],
                run_ids=row["run_ids"],
                last_message=row["last_message"],
                last_at=row["last_at"],
            )
            for row in await self._database.rows(QUERIES["failures"], window=window)
        ]

    async def throughput(self, *, window: timedelta, width: timedelta) -> Throughput:
        rows = await self._database.rows(QUERIES["throughput"], width=width, slots=window // width)
        return Throughput(width, [Bucket(**dict(row)) for row in rows])


def _columns(agency_ids: Sequence[AgencyId]) -> dict[str, list[Any]]:
    return {"agency_ids": list(map(number_of, agency_ids)), "agencies": list(map(str, agency_ids))}


def _agencies(row: Mapping[str, Any]) -> list[AgencyId]:
    found = zip(row["agency_ids"], row["agency_keys"], strict=True)
    return list(dict.fromkeys(number if key is None else key for number, key in found))


def _artifacts_of(plan: Plan) -> list[StoredArtifact]:
    same = ("key", "dataset", "rows", "size", "sha256", "rejected")
    return [
        StoredArtifact(
            **{name: getattr(artifact, name) for name in same},
            destination=artifact.destination or plan.destination,
            format=artifact.format.value,
            compression=artifact.compression.value,
        )
        for artifact in plan.artifacts[:_MOST_ARTIFACTS]
    ]
