"""Shows followed runs: their progress, a line when one ends, how many have ended, and a summary."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from pipeline_processing.terminal.render import counted, duration, number, size
from pipeline_processing.terminal.tables import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pipeline_processing.requests.following import Outcome
    from pipeline_processing.runs.completions import RunProgress
    from pipeline_processing.terminal.progress import Shown

_MAX_LISTED = 10
"""The most runs that the summary lists for one reason."""


class FollowedRuns:
    """The runs that one command follows, and what it shows of them. Pass each event to `progressed` or `ended`."""

    def __init__(self, runs: int, *, shown: Shown) -> None:
        self._runs = runs
        self._shown = shown
        self._began = time.monotonic()
        self._in_progress: set[str] = set()
        self.outcomes: dict[str, Outcome] = {}
        """By run id."""
        self._summarise()

    @property
    def silent(self) -> bool:
        """Whether nothing has been heard of any run."""
        return not self._in_progress and not self.outcomes

    def at_work(self, run_ids: Iterable[str]) -> None:
        """Set which runs a worker holds, if that is known."""
        self._in_progress = set(run_ids)
        self._summarise()

    def progressed(self, progress: RunProgress) -> None:
        self._in_progress.add(progress.run_id)
        self._shown(progress)
        self._summarise()

    def ended(self, run_id: str, outcome: Outcome) -> None:
        self._in_progress.discard(run_id)
        self.outcomes[run_id] = outcome
        self._shown.ended(run_id, outcome_line(run_id, outcome))
        self._summarise()

    def __str__(self) -> str:
        """`12/60 runs have ended: 44 waiting, 4 in progress, 1 failed, 11 succeeded`."""
        waiting = self._runs - len(self._in_progress) - len(self.outcomes)
        counts = {"waiting": waiting, "in progress": len(self._in_progress), **self._ended()}
        return f"{len(self.outcomes):,}/{self._runs:,} runs have ended: {_listed(counts)}"

    def summary(self) -> Iterator[str]:
        """Yield the lines to print at the end: none for a single run, whose last line says it all."""
        if self._runs == 1 or not self.outcomes:
            return
        seconds = time.monotonic() - self._began
        took = f" in {duration(1000 * seconds)}" if seconds >= 1 else ""  # they may have ended long before
        written = [each for each in self.outcomes.values() if _state(each) == "succeeded"]
        rows = sum(getattr(each, "rows_written", 0) for each in written)
        total = sum(getattr(each, "bytes_written", 0) for each in written)
        counts = self._ended()
        exported = counts.pop("succeeded")
        facts = [f"{exported:,} exported {counted(rows, 'row')} ({size(total)})"] if exported else []
        facts += [_listed(counts)] if any(counts.values()) else []
        yield f"{counted(len(self.outcomes), 'run')}{took}: {', '.join(facts)}."
        reasons = defaultdict[str, list[str]](list)
        for run_id, outcome in self.outcomes.items():
            if (reason := _reason(outcome)) is not None:
                reasons[reason].append(run_id)
        for reason, run_ids in reasons.items():
            more = f", … and {len(run_ids) - _MAX_LISTED:,} more" if len(run_ids) > _MAX_LISTED else ""
            yield f"  {reason}: {', '.join(run_ids[:_MAX_LISTED])}{more}"

    def _ended(self) -> dict[str, int]:
        states = Counter(map(_state, self.outcomes.values()))
        return {state: states[state] for state in ("refused", "failed", "cancelled", "succeeded")}

    def _summarise(self) -> None:
        if self._runs > 1:
            self._shown.summary(str(self))
        elif self.silent:
            self._shown.summary("waiting for a worker")
        else:
            self._shown.summary("")


def outcome_line(run_id: str, outcome: Outcome) -> str:
    """`run-7: succeeded, 1,234 rows, s3://…/_manifest.json`."""
    from pipeline_processing.messaging.dead_letters import DeadLetter

    if isinstance(outcome, DeadLetter):
        facts = ["refused", f"{outcome.reason}: {outcome.message}"]
    elif outcome.error is not None:
        facts = [outcome.state, f"{outcome.error.kind}: {outcome.error.message}"]
    elif outcome.state == "succeeded":
        state = f"succeeded{' (dry run)' if outcome.dry_run else ''}"
        facts = [state, f"{number(outcome.rows_written)} rows", *filter(None, [outcome.manifest])]
    else:
        facts = [outcome.state]
    return one_line(f"{run_id}: {', '.join(facts)}")


def _state(outcome: Outcome) -> str:
    from pipeline_processing.messaging.dead_letters import DeadLetter

    return "refused" if isinstance(outcome, DeadLetter) else outcome.state


def _reason(outcome: Outcome) -> str | None:
    """Return why a request was refused or a run failed: `failed (query_failed)`."""
    from pipeline_processing.messaging.dead_letters import DeadLetter

    if isinstance(outcome, DeadLetter):
        return f"refused ({outcome.reason})"
    return None if outcome.error is None else f"{outcome.state} ({outcome.error.kind})"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)
