"""Runs that last as long as a test wants: they wait in the middle of their query until a gate is opened."""

from __future__ import annotations

from typing import Self

from tests.acceptance.service import Service, one_dataset
from tests.watching import eventually

GATED = one_dataset(
    "SELECT id, repeat(md5(title), 2000) AS body, "
    "CASE WHEN id % 100000 > 200 THEN pg_advisory_xact_lock_shared(agency_id)::text END AS gate "
    "FROM documents WHERE agency_id = $1 AND id % 100000 <= 220 ORDER BY id"
)
"""A job whose runs for agencies LARGE and HUGE wait in the middle, with one part uploaded. Others have no gate."""


class Gate:
    """An agency's gate, closed inside the block until it is opened."""

    def __init__(self, service: Service, agency_id: int) -> None:
        self._service = service
        self._agency_id = agency_id
        self._closed = False

    def __enter__(self) -> Self:
        self._service.sql("SELECT pg_advisory_lock($1)", self._agency_id)
        self._closed = True
        return self

    def __exit__(self, *_: object) -> None:
        self.open()

    def open(self) -> None:
        """Let the runs continue."""
        if self._closed:
            self._closed = False
            assert self._service.sql("SELECT pg_advisory_unlock($1) AS opened", self._agency_id) == [{"opened": True}]

    def waiting(self) -> int:
        """Return the number of waiting runs."""
        (row,) = self._service.sql(
            "SELECT count(*) AS waiting FROM pg_locks JOIN pg_database ON pg_database.oid = database "
            "WHERE datname = current_database() AND locktype = 'advisory' AND objid = $1 AND NOT granted",
            self._agency_id,
        )
        return int(row["waiting"])

    def wait_for_run(self) -> None:
        """Wait until a run waits here and has pending uploads."""
        eventually(lambda: self.waiting() and self._service.pending_uploads())
