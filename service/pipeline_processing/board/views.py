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
        others = self._others(run, now=now, progress=progress, estimate=estimate)
        if (message := others["error_message"]) and len(message) > _LONGEST_LISTED:
            others["error_message"] = f"{message[:_LONGEST_LISTED]}…"
        return m.view(m.RunView, run, **others)

    def details(
        self, story: RunStory, *, now: datetime, progress: m.Progress | None, estimate: m.Estimate | None
    ) -> m.RunDetails:
        """Return a run in full."""
        run = story.run
        asked = run.request.model_dump(mode="json", exclude_defaults=True, exclude={"run_id"})
        return m.view(
            m.RunDetails,
            run,
            **self._others(run, now=now, progress=progress, estimate=estimate),
            request=self._mask.value(asked),
            timings=[
                m.StageTime(stage=stage, milliseconds=ms)
                for stage, ms in (run.timings or {}).items()
                if isinstance(ms, int | float)
            ],
            attempts=[self._attempt(attempt) for attempt in story.attempts],
            datasets=[m.view(m.DatasetView, counts) for counts in story.datasets],
            artifacts=[
                m.view(m.ArtifactView, each, bytes=each.size, destination=self._mask.text(each.destination))
                for each in story.artifacts
            ],
            events=[m.view(m.EventView, event, sent=event.sent_at is not None) for event in story.events],
            deliveries=[
                m.view(m.DeliveryView, each, last_error=each.last_error and self._mask.text(each.last_error))
                for each in story.deliveries
            ],
            trace_url=self._trace(run.trace_id),
            replays=[m.view(m.ReplayView, replay) for replay in story.replays],
            replay_command=f"{_PROGRAM} replay --run-id {quote(run.run_id)}" if run.state.finished else None,
        )

    def _others(self, run: Run, *, now: datetime, **live: Any) -> dict[str, Any]:
        """Return what a view doesn't take from the run as it is."""
        lease = run.lease_expires_at
        return {
            **live,
            "agency_id": str(run.agency_id),
            "labels": {name: self._mask.text(text) for name, text in run.labels.items()},
            "requested_by": run.requested_by and self._mask.text(run.requested_by),
            "priority": run.request.priority,
            "lease_seconds_left": None if lease is None else round((lease - now).total_seconds(), 1),
            "error_kind": run.error and run.error.kind,
            "error_message": run.error and self._mask.text(run.error.message),
            "manifest_url": run.manifest_url and self._mask.text(run.manifest_url),
        }

    def _attempt(self, attempt: Attempt) -> m.AttemptView:
        took = None if attempt.finished_at is None else attempt.finished_at - attempt.started_at
        return m.view(
            m.AttemptView,
            attempt,
            error_message=attempt.error_message and self._mask.text(attempt.error_message),
            duration_ms=None if took is None else round(took.total_seconds() * 1000),
            trace_url=self._trace(attempt.trace_id),
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
        return m.view(
            m.Overview,
            state,
            states=m.view(m.StateCounts, state),
            oldest_waiting=None
            if oldest is None
            else m.view(
                m.OldestWaiting,
                oldest,
                agency_id=str(oldest.agency_id),
                seconds=_seconds(state.now - oldest.queued_at),
            ),
            finished_last_hour=m.FinishedCounts(**{kind.value: count for kind, count in state.finished.items()}),
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
            runs=[m.view(m.FinishedRunView, run, state=run.state.value) for run in runs],
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
        return m.view(
            m.FailureGroupView,
            group,
            agency_ids=[str(agency_id) for agency_id in group.agency_ids],
            last_message=self._mask.text(group.last_message),
            description=self._kinds.get(group.error_kind, ""),
            docs=f"{_DOCS}#{group.error_kind}",
            command=f"{_PROGRAM} replay {which}",
        )

    def throughput(self, throughput: Throughput, *, window: str) -> m.ThroughputView:
        """Return the buckets of a window."""
        return m.ThroughputView(
            window=window,
            bucket_seconds=round(throughput.width.total_seconds()),
            buckets=[m.view(m.BucketView, each) for each in throughput.buckets],
        )

    def dead_letter(self, letter: DeadLetter) -> m.DeadLetterView:
        """Return a dead letter, without key, value and headers of the request."""
        return m.view(
            m.DeadLetterView,
            letter,
            message=self._mask.text(letter.message),
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
