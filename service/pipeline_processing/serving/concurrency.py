"""How many runs a worker takes at once."""

import structlog

from pipeline_processing.errors import PipelineError, TooManyConnections

log = structlog.get_logger(__name__)


class Concurrency:
    """
    A limit: `most`, and fewer while a database has no connections left.

    Halved when an attempt finds the database full, and raised by one after each that ended well: what several workers
    share settles near what the database can serve.
    """

    def __init__(self, most: int) -> None:
        self.limit = most
        self._most = most
        self._halved_at = float("-inf")

    def learn(self, error: PipelineError | None, *, began_at: float, now: float) -> None:
        """An attempt ended; both times are monotonic."""
        if isinstance(error, TooManyConnections):
            # Attempts that began before the last halving tell nothing new.
            if began_at >= self._halved_at and self.limit > 1:
                self.limit //= 2
                self._halved_at = now
                log.warning("a database has no connections left; taking fewer runs at once", runs=self.limit)
        elif error is None and self.limit < self._most:
            self.limit += 1
            if self.limit == self._most:
                log.info("taking as many runs at once as before", runs=self.limit)
