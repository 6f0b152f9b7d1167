"""Whether this process works: the answers of `/livez` and `/readyz`."""

from collections.abc import Sequence

from pipeline_processing.aio.clock import Clock
from pipeline_processing.telemetry.outage import Outage

SILENT_SECONDS = 90.0
"""A loop that is silent for longer hangs: none of its calls may take that long."""


class Pulse:
    """The heartbeat of a loop that has to keep going."""

    def __init__(self, name: str, *, clock: Clock) -> None:
        self.name = name
        self._clock = clock
        self._beaten_at: float | None = None
        self._stuck: str | None = None

    def beat(self) -> None:
        """The loop has started another round."""
        self._beaten_at = self._clock.monotonic()

    def stuck(self, why: str) -> None:
        """The loop makes rounds but no progress, until `moving` is called."""
        self._stuck = why

    def moving(self) -> None:
        """The loop makes progress, or has nothing to do."""
        self._stuck = None

    def stop(self) -> None:
        """The loop has ended on purpose, or hasn't started."""
        self._beaten_at = self._stuck = None

    @property
    def problem(self) -> str | None:
        """Why the loop isn't alive; None if it is, or isn't meant to run."""
        beaten_at, stuck = self._beaten_at, self._stuck  # read once: another thread may ask
        if stuck is not None:
            return f"{self.name}: {stuck}"
        if beaten_at is None:
            return None
        silent = self._clock.monotonic() - beaten_at
        return f"{self.name} has been silent for {silent:.0f} s" if silent > SILENT_SECONDS else None


class Health:
    """All pulses and outages of the process."""

    def __init__(self, *, pulses: Sequence[Pulse], outages: Sequence[Outage]) -> None:
        self._pulses = pulses
        self._outages = outages
        self.state = "starting"
        """`starting`, `serving` once everything has started, `stopping` after SIGTERM."""
        self.notes: list[str] = []
        """What an operator should know, though nothing is wrong with this process."""

    def not_alive(self) -> list[str]:
        """Reasons to restart this process. A server that is away is none."""
        return [problem for pulse in self._pulses if (problem := pulse.problem) is not None]

    def not_ready(self) -> list[str]:
        """Reasons why the process can't work just now."""
        away = [f"{outage.server}: {problem}" for outage in self._outages if (problem := outage.problem) is not None]
        state = [] if self.state == "serving" else [self.state]
        return [*state, *self.not_alive(), *away]
