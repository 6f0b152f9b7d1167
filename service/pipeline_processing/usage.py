"""
What a run uses: counted where it is used, deep inside drivers, which don't know the run.

A context variable leads from there to the attempt: tasks and threads that the attempt starts inherit it. Callbacks of a
connection don't, because they have the context in which it was opened.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Usage:
    """What one attempt has used so far, apart from processor time."""

    bytes_read: int = 0
    """Received from sources: rows as Postgres sent them, and bodies of HTTP answers."""
    bytes_written: int = 0
    """Handed to uploads, at all destinations."""
    database_seconds: float = 0.0
    """Time spent waiting for answers of the databases that the job config names."""
    s3_requests: int = 0
    """Requests sent, each retry included."""
    part_retries: int = 0
    """Of these, the ones that sent a part of an upload again: all requests for parts, less the number of parts."""

    def count_s3_request(self, *, is_part: bool) -> None:
        """Count a request, which sends a part of an upload or does anything else."""
        self.s3_requests += 1
        self.part_retries += is_part

    @contextmanager
    def waiting_for_database(self) -> Iterator[None]:
        """Add the block's duration to `database_seconds`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.database_seconds += time.perf_counter() - start


_usage: ContextVar[Usage] = ContextVar("usage")


def current_usage() -> Usage:
    """Return the usage of the attempt that this is done for, or one that nobody reads."""
    return _usage.get(None) or Usage()


def use(usage: Usage) -> None:
    """From now on, count what this task does, and what it starts, as part of `usage`."""
    _usage.set(usage)
