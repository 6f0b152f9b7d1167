"""Says once that a server is away, and once that it is back."""

import structlog

from pipeline_processing.errors import PipelineError

log = structlog.get_logger(__name__)


class Outage:
    """
    Whether a server that is needed all the time answers its users: it is away as long as one of them has a complaint.

    Retrying goes on quietly meanwhile: a line every second would hide what else happens.
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self._complaints: dict[str, str] = {}

    @property
    def problem(self) -> str | None:
        """What is wrong; None while it answers."""
        # A copy, as another thread asks.
        return next(iter(list(self._complaints.values())), None)

    def began(self, error: PipelineError, *, by: str) -> None:
        """It doesn't answer this user."""
        if not self._complaints:
            log.warning(f"{self.server} can't be used; trying again until it can", error=str(error))
        self._complaints[by] = str(error)

    def ended(self, *, by: str) -> None:
        """It answers this user."""
        if self._complaints.pop(by, None) is not None and not self._complaints:
            log.info(f"{self.server} is back")
