"""The state of this process, reported by `/livez` and `/readyz`."""

from collections.abc import Sequence
from typing import Any, Protocol

from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.clock import Clock
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.metrics import Reading

SILENT_SECONDS = 90.0
"""A loop without a beat for this long counts as hanging, as none of its calls may take that long."""
_UNKNOWN_SECONDS = 300.0
"""A server that no run has tried for this long may be back. While it is away, runs that wait try it more often."""


class Pulse:
    """The heartbeat of a loop that must keep running."""

    def __init__(self, name: str, *, clock: Clock) -> None:
        self.name = name
        self._clock = clock
        self._beaten_at: float | None = None
        self._stuck: str | None = None

    def beat(self) -> None:
        """Record that the loop has started another iteration."""
        self._beaten_at = self._clock.monotonic()

    def stuck(self, why: str) -> None:
        """Record that the loop runs, but makes no progress until `moving` is called."""
        self._stuck = why

    def moving(self) -> None:
        """Record that the loop makes progress, or has nothing to do."""
        self._stuck = None

    def stop(self) -> None:
        """Record that the loop has ended on purpose."""
        self._beaten_at = self._stuck = None

    @property
    def problem(self) -> str | None:
        """Why the loop isn't alive; None if it is, or has stopped or not started."""
        beaten_at, stuck = self._beaten_at, self._stuck  # copies, as another thread reads them
        if stuck is not None:
            return f"{self.name}: {stuck}"
        if beaten_at is None:
            return None
        silent = self._clock.monotonic() - beaten_at
        return f"{self.name} has been silent for {silent:.0f} s" if silent > SILENT_SECONDS else None


def probe_answer(problems: Sequence[str], notes: Sequence[str], mask: Mask) -> tuple[int, dict[str, Any]]:
    """Return status and body of a probe's answer."""
    told = {"problems": problems, "notes": notes}
    body = {name: [mask.text(text) for text in texts] for name, texts in told.items() if texts}
    return 503 if problems else 200, {"status": "unavailable" if problems else "ok", **body}


class Needed(Protocol):
    """The servers that a process needs."""

    def problems(self) -> list[str]:
        """Which servers are unavailable, and why."""


class Servers:
    """The servers that `serve` always needs."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self.kafka = Server("Kafka", clock=clock)
        self.history = Server("the history", clock=clock)
        self.destination = Server("the destination", clock=clock)
        self.of_runs = {name: Server(f"the {name}", clock=clock) for name in ("source", "destination")}
        """As runs find them. An outage doesn't make the process unready: it makes runs wait."""

    def problems(self) -> list[str]:
        """Which servers are unavailable, and why."""
        each = (self.kafka, self.history, self.destination)
        return [f"{server.name}: {problem}" for server in each if (problem := server.problem) is not None]

    def readings(self) -> list[Reading]:
        """Return whether each of them is available, for the metrics. Leaves out those of which it isn't known."""
        each = (("kafka", self.kafka), ("history", self.history), ("destination", self.destination))
        up = {name: server.problem is None for name, server in each}
        for name, server in self.of_runs.items():
            if server.problem is None:
                up.setdefault(name, True)
            elif self._clock.monotonic() - server.unanswered_at <= _UNKNOWN_SECONDS:
                up[name] = False
            else:
                up.pop(name, None)
        return [(float(is_up), (name,)) for name, is_up in up.items()]


class Health:
    """All pulses and servers of the process together."""

    def __init__(self, *, pulses: Sequence[Pulse], servers: Needed) -> None:
        self._pulses = pulses
        self._servers = servers
        self.state = "starting"
        """`serving` once everything has started, `stopping` after SIGTERM."""
        self._notes: dict[str, str] = {}

    @property
    def notes(self) -> list[str]:
        """What an operator should know, although this process works as it should."""
        return list(self._notes.copy().values())  # a copy first, as another thread reads it

    def note(self, about: str, text: str | None) -> None:
        """Replace the note about something; None removes it."""
        if text is None:
            self._notes.pop(about, None)
        else:
            self._notes[about] = text

    def not_alive(self) -> list[str]:
        """Return reasons to restart this process, which never include an unavailable server."""
        return [problem for pulse in self._pulses if (problem := pulse.problem) is not None]

    def not_ready(self) -> list[str]:
        """Return reasons why this process currently doesn't do its work."""
        state = [] if self.state == "serving" else [self.state]
        return [*state, *self.not_alive(), *self._servers.problems()]
