"""Notices that the processes of `triggers` don't all use the same triggers file."""

from datetime import datetime

from pipeline_processing.aio.clock import Clock
from pipeline_processing.log import get_logger
from pipeline_processing.telemetry.health import Health

log = get_logger(__name__)

_OTHERS_SECONDS = 600.0
_ABOUT = "other triggers files"
_OTHERS = "another process uses another triggers file ({}) than this one ({}); give all processes the same"


class OtherFiles:
    """Reports when another process matches events with another triggers file than this one's."""

    def __init__(self, own: str, *, clock: Clock, health: Health) -> None:
        """`own` identifies this process's file."""
        self._own = own
        self._clock = clock
        self._health = health
        self._started_at = clock.now()
        self._last: tuple[str, float] | None = None

    def saw(self, triggers_id: str, at: datetime) -> None:
        """Record that an event was matched with this file at that time."""
        if triggers_id == self._own or at < self._started_at:
            return  # an entry from before this process started may be from before an update of the file
        message = _OTHERS.format(triggers_id, self._own)
        if self._last is None or self._last[0] != triggers_id:
            log.error(message)
        self._last = triggers_id, self._clock.monotonic()
        self._health.note(_ABOUT, message)

    def refresh(self) -> None:
        """Drop the report once the other process has been silent for ten minutes."""
        if self._last is not None and self._clock.monotonic() - self._last[1] > _OTHERS_SECONDS:
            self._last = None
            self._health.note(_ABOUT, None)
