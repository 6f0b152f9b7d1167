"""Whether this process works: what `/livez` and `/readyz` answer."""

from collections.abc import Sequence

from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.clock import Clock

SILENT_SECONDS = 90.0
"""A loop without a beat for so long hangs: none of its calls may take that long."""


class Pulse:
    """The heartbeat of a loop that must go round all the time."""

    def __init__(self, name: str, *, clock: Clock) -> None:
        self.name = name
        self._clock = clock
        self._beaten_at: float | None = None
        self._stuck: str | None = None

    def beat(self) -> None:
        """It has come round."""
        self._beaten_at = self._clock.monotonic()

    def stuck(self, why: str) -> None:
        """It goes round, but gets nothing done until `moving` is called."""
        self._stuck = why

    def moving(self) -> None:
        """It gets something done, or has nothing to do."""
        self._stuck = None

    def stop(self) -> None:
        """It has ended on purpose."""
        self._beaten_at = self._stuck = None

    @property
    def problem(self) -> str | None:
        """Why it isn't alive; None if it is, or need not run."""
        beaten_at, stuck = self._beaten_at, self._stuck  # as they are now: another thread asks
        if stuck is not None:
            return f"{self.name}: {stuck}"
        if beaten_at is None:
            return None
        silent = self._clock.monotonic() - beaten_at
        return f"{self.name} has been silent for {silent:.0f} s" if silent > SILENT_SECONDS else None


class Servers:
    """The servers that `serve` needs all the time."""

    def __init__(self, *, clock: Clock) -> None:
        self.kafka = Server("Kafka", clock=clock)
        self.history = Server("the history", clock=clock)
        self.destination = Server("the destination", clock=clock)

    def problems(self) -> list[str]:
        """Which of them are away, and why."""
        each = (self.kafka, self.history, self.destination)
        return [f"{server.name}: {problem}" for server in each if (problem := server.problem) is not None]


class Health:
    """All pulses and servers of the process together."""

    def __init__(self, *, pulses: Sequence[Pulse], servers: Servers) -> None:
        self._pulses = pulses
        self._servers = servers
        self.state = "starting"
        """`serving` once everything has begun, `stopping` from SIGTERM on."""
        self.notes: list[str] = []
        """What an operator should know, though this process does all it can."""

    def not_alive(self) -> list[str]:
        """Reasons to end this process and start another; none of them is a server that is away."""
        return [problem for pulse in self._pulses if (problem := pulse.problem) is not None]

    def not_ready(self) -> list[str]:
        """Reasons why it doesn't do its work at the moment."""
        state = [] if self.state == "serving" else [self.state]
        return [*state, *self.not_alive(), *self._servers.problems()]
