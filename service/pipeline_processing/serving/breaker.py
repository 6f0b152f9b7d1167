"""Keep an unavailable source or destination from taking an attempt of every run."""

from collections import Counter
from collections.abc import Callable, Mapping

from pipeline_processing.aio.asking import Backoff, Server
from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import DestinationUnavailable, PipelineError, SourceUnavailable
from pipeline_processing.model import RunState
from pipeline_processing.runs.failures import Attempted

_IN_A_ROW = 3
_PAUSE = Backoff(first=1.0, longest=30.0)
_SLOW_SECONDS = 120.0
"""A run that has worked for so long may go on for hours, and no call of a server takes longer."""
_ME = "runs"

SOURCE, DESTINATION = "source", "destination"
_KINDS: Mapping[type[PipelineError], str] = {SourceUnavailable: SOURCE, DestinationUnavailable: DESTINATION}


class Breaker:
    """
    Lets one run at a time try a server that several attempts in a row have found unavailable, until one succeeds.

    So an outage takes the attempts of few runs, however many wait. If a trying run works for two minutes, another one
    may try as well, since a long run says nothing before its end.
    """

    def __init__(self, servers: Mapping[str, Server], *, clock: Clock, note: Callable[[str, str | None], None]) -> None:
        """`servers` are SOURCE and DESTINATION. `note` gets the name of one, and what an operator should know."""
        self._servers = servers
        self._clock = clock
        self._note = note
        self._failures = Counter[str]()
        """By server: how many attempts in a row have found it unavailable."""
        self._trying_since: float | None = None
        self._next_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether a server counts as unavailable."""
        return any(failures >= _IN_A_ROW for failures in self._failures.values())

    def admits(self) -> bool:
        """Return whether another run may start now."""
        if not self.is_open:
            return True
        now = self._clock.monotonic()
        is_free = self._trying_since is None or now - self._trying_since >= _SLOW_SECONDS
        return is_free and now >= self._next_at

    def started(self) -> bool:
        """Record that a run starts. Return whether it is to try a server; `ended` needs to know."""
        if self.is_open:
            self._trying_since = self._clock.monotonic()
        return self.is_open

    def ended(self, attempted: Attempted | None, *, tries: bool, decided: bool) -> None:
        """
        Record the outcome of an attempt, or None if nothing is known. `decided`: whether the run was already decided
        when it was claimed, so that it read no rows.
        """
        if tries:
            self._trying_since = None
        if attempted is None:
            return
        error = attempted.error
        name = next((name for kind, name in _KINDS.items() if isinstance(error, kind)), None)
        if error is not None and name is not None:
            self._failed(name, error, tries=tries)
        elif error is None and attempted.run.state is RunState.SUCCEEDED:
            if not decided:
                self._answered(SOURCE)
            if not attempted.run.dry_run:
                self._answered(DESTINATION)

    def _failed(self, name: str, error: PipelineError, *, tries: bool) -> None:
        if self._failures[name] >= _IN_A_ROW and not tries:
            return  # it began before: eight runs that are cut off at once are one failure, not eight
        self._failures[name] += 1
        if (beyond := self._failures[name] - _IN_A_ROW) >= 0:
            self._next_at = self._clock.monotonic() + _PAUSE.seconds(beyond + 1)
            server = self._servers[name]
            server.away(error, by=_ME)
            self._note(name, f"{server.name} can't be used, so one run at a time tries it: {error}")

    def _answered(self, name: str) -> None:
        del self._failures[name]
        self._servers[name].back(by=_ME)
        self._note(name, None)
