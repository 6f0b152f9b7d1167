"""Reads queries by COPY, and decides which ones can't be read so."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import inf
from typing import Any

import asyncpg

from pipeline_processing.log import get_logger
from pipeline_processing.ports import Template
from pipeline_processing.rows.columns import Columns
from pipeline_processing.sources.postgres.batches import MAX_BATCH_ROWS
from pipeline_processing.sources.postgres.copy_batches import CopyBatches, CopyLimits, CopyTap, Outputs, RowDecoder
from pipeline_processing.sources.postgres.copy_statement import CopyStatement, NotCopied, copy_statement
from pipeline_processing.sources.postgres.shape import Shape

log = get_logger(__name__)

NewDecoder = Callable[..., RowDecoder]

_SAVEPOINT = "copy_reader"


@dataclass(frozen=True, slots=True)
class ChosenReader:
    """How rows are read: by COPY with a decoder, or by cursors. `description` says so, and why."""

    decoder: NewDecoder | None
    description: str


def chosen_reader(setting: str = "auto") -> ChosenReader:
    """Return the reader for a setting: "auto" or "cursor"."""
    if setting == "cursor":
        return ChosenReader(None, "rows of Postgres are read by cursors, as PIPELINE_SOURCE__READER says")
    try:
        from pipeline_processing.sources.postgres.copy_stream import CopyStream
    except ImportError:
        return ChosenReader(None, "rows of Postgres are read by cursors: COPY's native decoder is not installed")
    return ChosenReader(CopyStream, "rows of Postgres are read by COPY, with its native decoder")


class CopyReader:
    """
    Reads queries by COPY. `decoder(types, outputs, carry=…, batch_bytes=…)` is `CopyStream`, or has the same interface.

    What Postgres says about a query is remembered, so it is asked only once; unless it may say otherwise for the values
    of another run.
    """

    def __init__(self, decoder: NewDecoder, *, limits: CopyLimits) -> None:
        self._decoder = decoder
        self._limits = limits
        self._statements: dict[tuple[Shape, str], CopyStatement | None] = {}
        """By query and form; None if COPY can't read it. All queries are in the job config."""

    async def statement(
        self, connection: asyncpg.Connection, shape: Shape, carry: str, values: Sequence[Any], *, dataset: str
    ) -> CopyStatement | None:
        """
        Return the statement that reads a query; None if COPY can't, and logs why when that is found out. A query that
        wasn't checked before is checked with these values.
        """
        key = shape, carry
        if key not in self._statements:
            await connection.execute(f"SAVEPOINT {_SAVEPOINT}")
            try:
                self._statements[key] = await copy_statement(connection, shape, carry, values, savepoint=_SAVEPOINT)
            except NotCopied as reason:
                await connection.execute(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
                log.info("a dataset is read by a cursor", dataset=dataset, reason=str(reason))
                if not reason.lasts:
                    return None
                self._statements[key] = None
        return self._statements[key]

    async def batches(
        self,
        connection: asyncpg.Connection,
        statement: CopyStatement,
        values: Sequence[Any],
        *,
        columns: Columns,
        carry: str,
        dataset: str,
        located: Callable[[int], AbstractContextManager[None]],
    ) -> CopyBatches:
        """Return the batches of a query with these arguments, in a transaction for which statement_timeout is set."""
        query, timeout = await statement.placed(connection, values)

        def start(outputs: Outputs) -> CopyTap:
            decoder = self._decoder(statement.types, outputs, carry=carry, batch_bytes=self._limits.batch_bytes)
            max_rows = inf if isinstance(outputs, Template) else MAX_BATCH_ROWS
            return CopyTap(connection, query, decoder, limits=self._limits, max_rows=max_rows)

        return CopyBatches(start, columns, dataset=dataset, limits=self._limits, timeout=timeout, located=located)
