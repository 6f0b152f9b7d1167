"""Turn what the history holds into what the API answers. Masks secrets in every text."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from shlex import quote
from typing import Any

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.board import models as m
from pipeline_processing.messaging.dead_letters import DeadLetter
from pipeline_processing.model import Attempt, Run, RunState
from pipeline_processing.runs.board_reads import (
    FailureGroup,
    FinishedRun,
    QueueState,
    RunStory,
    StoredArtifact,
    Throughput,
    Typical,
)
from pipeline_processing.telemetry.masking import Mask

_LONGEST_LISTED = 300
"""Characters of an error message in lists."""
_LONGEST_ESTIMATE_SECONDS = 30 * 24 * 3600.0
_DOCS = "docs/errors.md"
_PROGRAM = "pipeline-processing"


class Views:
    """Makes the API's answers."""

    def __init__(self, *, mask: Mask, trace_url: str | None, kinds: Mapping[str, str]) -> None:
        """`trace_url` has the placeholder `{trace_id}`; `kinds` describes each kind of error."""
        self._mask = mask
        self._trace_url = trace_url
        self._kinds = kinds

    def run(
        self, run: Run, *, now: datetime, progress: m.Progress | None = None, estimate: m.Estimate | None = None
    ) -> m.RunView:
        """Return a run for lists."""
        return m.RunView(**self._fields(run, now=now, longest=_LONGEST_LISTED), progress=progress, estimate=estimate)

    def details(
        self, story: RunStory, *, now: datetime, progress: m.Progress | None, estimate: m.Estimate | None
    ) -> m.RunDetails:
        """Return a run in full."""
        run = story.run
        asked = run.request.model_dump(mode="json", exclude_defaults=True, exclude={"run_id"})
        return m.RunDetails(
            **self._fields(run, now=now),
            progress=progress,
            estimate=estimate,
            topic=run.topic,
            partition=run.partition,
            offset=run.offset,
            config_id=run.config_id,
            pinned=run.pinned,
            request=self._mask.value(asked),
            timings=[
                m.StageTime(stage=stage, milliseconds=ms)
                for stage, ms in (run.timings or {}).items()
                if isinstance(ms, int | float)
            ],
            attempts=[self._attempt(attempt) for attempt in story.attempts],
            datasets=[m.DatasetView(**counts.model_dump()) for counts in story.datasets],
            artifacts=[self._artifact(each) for each in story.artifacts],
            events=[
                m.EventView(
                    event_id=event.event_id,
                    type=event.type,
                    created_at=event.created_at,
                    sent=event.sent_at is not None,
                    sent_at=event.sent_at,
                )
                for event in story.events
            ],
            deliveries=[
                m.DeliveryView(
                    **delivery.model_dump(include=m.DeliveryView.model_fields.keys() - {"last_error"}),
                    last_error=delivery.last_error and self._mask.text(delivery.last_error),
                )
                for delivery in story.deliveries
            ],
            trace_url=self._trace(run.trace_id),
            replays=[
                m.ReplayView(run_id=replay.run_id, state=replay.state, queued_at=replay.queued_at)
                for replay in story.replays
            ],
            replay_command=f"{_PROGRAM} replay --run-id {quote(run.run_id)}" if run.state.finished else None,
        )

    def _fields(self, run: Run, *, now: datetime, longest: int | None = None) -> dict[str, Any]:
        lease = run.lease_expires_at
        message = None if run.error is None else self._mask.text(run.error.message)
        if message is not None and longest is not None and len(message) > longest:
            message = f"{message[:longest]}…"
        same = (
            "run_id", "job", "state", "attempt", "replay_of", "dry_run", "queued_at", "not_before",
            "started_at", "finished_at", "duration_ms", "rows_read", "rows_written", "rows_filtered", "rows_rejected",
            "bytes_written", "worker", "lease_expires_at", "trace_id",
        )  # fmt: skip
        return {name: getattr(run, name) for name in same} | {
            "agency_id": str(run.agency_id),
            "labels": {name: self._mask.text(text) for name, text in run.labels.items()},
            "requested_by": run.requested_by and self._mask.text(run.requested_by),
            "priority": run.request.priority,
            "lease_seconds_left": None if lease is None else round((lease - now).total_seconds(), 1),
            "error_kind": run.error and run.error.kind,
            "error_message": message,
            "manifest_url": run.manifest_url and self._mask.text(run.manifest_url),
        }

    def _attempt(self, attempt: Attempt) -> m.AttemptView:
        took = None if attempt.finished_at is None else attempt.finished_at - attempt.started_at
        return m.AttemptView(
            **attempt.model_dump(include=m.AttemptView.model_fields.keys() - {"error_message"}),
            error_message=attempt.error_message and self._mask.text(attempt.error_message),
            duration_ms=None if took is None else round(took.total_seconds() * 1000),
            trace_url=self._trace(attempt.trace_id),
        )

    def _artifact(self, artifact: StoredArtifact) -> m.ArtifactView:
        same = ("key", "dataset", "format", "compression", "rows", "sha256", "rejected")
        return m.ArtifactView(
            **{name: getattr(artifact, name) for name in same},
            bytes=artifact.size,
            destination=self._mask.text(artifact.destination),
        )

    def _trace(self, trace_id: str | None) -> str | None:
        if trace_id is None or self._trace_url is None:
            return None
        return self._trace_url.replace("{trace_id}", trace_id)

    # -- the whole -------------------------------------------------------------------------------

    def overview(self, state: QueueState, *, kafka: m.Server, lag: m.Lag | None, letters: int | None) -> m.Overview:
        """Return the overview. `letters` are the recent dead letters in Kafka."""
        oldest = state.oldest_waiting
        unsent_at = state.oldest_unsent_at
        return m.Overview(
            now=state.now,
            states=m.StateCounts(queued=state.queued, running=state.running, prepared=state.prepared),
            retrying=state.retrying,
            oldest_waiting=None
            if oldest is None
            else m.OldestWaiting(
                run_id=oldest.run_id,
                agency_id=str(oldest.agency_id),
                queued_at=oldest.queued_at,
                seconds=_seconds(state.now - oldest.queued_at),
            ),
            agencies_waiting=state.agencies_waiting,
            finished_last_hour=m.FinishedCounts(**{kind.value: count for kind, count in state.finished.items()}),
            outbox_unsent=state.outbox_unsent,
            oldest_unsent_seconds=None if unsent_at is None else _seconds(state.now - unsent_at),
            lag=lag,
            dead_letters_recent=None if letters is None else letters + state.kept_letters,
            kafka=kafka,
            history="ok",
        )

    def durations(self, agency_id: AgencyId, runs: list[FinishedRun]) -> m.AgencyDurations:
        """Return an agency's finished runs."""
        return m.AgencyDurations(
            agency_id=str(agency_id),
            runs=[
                m.FinishedRunView(
                    run_id=run.run_id,
                    finished_at=run.finished_at,
                    duration_ms=run.duration_ms,
                    state=run.state.value,
                )
                for run in runs
            ],
        )

    def failures(self, groups: list[FailureGroup], *, window: str, since: datetime) -> m.Failures:
        """Return groups of failed runs, each with the command to replay them."""
        return m.Failures(window=window, groups=[self._group(group, since) for group in groups])

    def _group(self, group: FailureGroup, since: datetime) -> m.FailureGroupView:
        if group.count == 1:
            which = f"--run-id {quote(group.run_ids[0])}"
        elif group.agencies == 1:
            which = f"--failed --agency-id {quote(str(group.agency_ids[0]))} --since {since:%Y-%m-%dT%H:%M:%SZ}"
        else:
            which = f"--failed --since {since:%Y-%m-%dT%H:%M:%SZ}"
        return m.FailureGroupView(
            error_kind=group.error_kind,
            count=group.count,
            replayed=group.replayed,
            agencies=group.agencies,
            agency_ids=[str(agency_id) for agency_id in group.agency_ids],
            run_ids=group.run_ids,
            last_message=self._mask.text(group.last_message),
            last_at=group.last_at,
            description=self._kinds.get(group.error_kind, ""),
            docs=f"{_DOCS}#{group.error_kind}",
            command=f"{_PROGRAM} replay {which}",
        )

    def throughput(self, throughput: Throughput, *, window: str) -> m.ThroughputView:
        """Return the buckets of a window."""
        names = m.BucketView.model_fields
        return m.ThroughputView(
            window=window,
            bucket_seconds=round(throughput.width.total_seconds()),
            buckets=[m.BucketView(**{name: getattr(each, name) for name in names}) for each in throughput.buckets],
        )

    def dead_letter(self, letter: DeadLetter) -> m.DeadLetterView:
        """Return a dead letter, without key, value and headers of the request."""
        return m.DeadLetterView(
            place=letter.place,
            reason=letter.reason,
            message=self._mask.text(letter.message),
            at=letter.at,
            topic=letter.topic,
            partition=letter.partition,
            offset=letter.offset,
            command=f"{_PROGRAM} dead-letters show {letter.place}",
        )


def estimate(run: Run, typical: Typical | None, progress: m.Progress | None, *, now: datetime) -> m.Estimate | None:
    """
    Estimate the end of a held run: by rows left and rows a second if both are known, else by the median duration.

    None if the agency has no successful run, or if the run already takes longer than usual.
    """
    if typical is None or run.started_at is None or run.state not in (RunState.RUNNING, RunState.PREPARED):
        return None
    began_at, seconds = run.started_at, typical.duration_ms / 1000
    if progress is not None and progress.rows_per_second and typical.rows_read:
        began_at, seconds = progress.at, (typical.rows_read - progress.rows_read) / progress.rows_per_second
    if seconds > _LONGEST_ESTIMATE_SECONDS:
        return None
    try:
        finishes_at = began_at + timedelta(seconds=seconds)
    except OverflowError:  # beyond the years of a datetime
        return None
    return m.Estimate(finishes_at=finishes_at, from_runs=typical.runs) if finishes_at > now else None


def _seconds(duration: timedelta) -> float:
    return round(max(0.0, duration.total_seconds()), 1)
