"""
Load staged rows into their table exactly once: in one transaction with a row in `pipeline_loads`.

A worker that finds that row does nothing, so any worker may repeat a load, even after a lost reply.
"""

from dataclasses import dataclass
from typing import Any

import asyncpg

from pipeline_processing.agency_keys import number_of
from pipeline_processing.destinations.tables.errors import TableConflict
from pipeline_processing.destinations.tables.options import LoadMode
from pipeline_processing.destinations.tables.queries import column_list, statement, table_name
from pipeline_processing.destinations.tables.staging import StagingNote, drop, notes, rows_of
from pipeline_processing.errors import UploadMissing
from pipeline_processing.log import get_logger
from pipeline_processing.plan import Artifact
from pipeline_processing.postgres.identifiers import literal, quoted

LOADED = "loaded"
GIVEN_UP = "given_up"
SUPERSEDED = "superseded"
_BOOKKEEPING_TABLES = 2

log = get_logger(__name__)


async def is_set_up(connection: asyncpg.Connection, schema: str) -> bool:
    """Whether the bookkeeping tables exist."""
    tables = await connection.fetchval(*statement("bookkeeping_tables", {"schema": schema}))
    return bool(tables == _BOOKKEEPING_TABLES)


async def set_up(connection: asyncpg.Connection, schema: str) -> None:
    """Create the bookkeeping tables."""
    # Checked first: IF NOT EXISTS needs the CREATE privilege even when the tables exist.
    if await is_set_up(connection, schema):
        return
    async with connection.transaction():
        await connection.execute(*statement("lock_bookkeeping", {"schema": schema}))
        await connection.execute(*statement("create_loads", schema=quoted(schema)))
        await connection.execute(*statement("create_installation", schema=quoted(schema)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The load of one artifact, in a READ COMMITTED transaction."""

    connection: asyncpg.Connection
    schema: str
    url: str
    """The destination's, for messages."""
    artifact: Artifact
    staging: str
    """The name of the staging table."""
    run_id: str
    agency: str
    """The agency's key."""
    attempt: int

    async def complete(self) -> None:
        """
        Load the staged rows, unless they were loaded before.

        If a run with a later snapshot has replaced the agency's rows, record the load as superseded and change nothing,
        as it would bring old rows back.

        Raises UploadMissing if there is neither a staging table nor a row in `pipeline_loads`, or TableConflict if rows
        of another attempt or for another table were loaded, the run was given up, or the table took too few rows.
        """
        url = f"{self.url}/{self.artifact.dataset}"
        note = (await notes(self.connection, self.schema, begins=self.staging)).get(self.staging)
        if note is not None:
            what = f"{table_name(self.schema, note.target)} {self.agency}"
            await self.connection.execute(*statement("lock_load", {"what": what}))
        later = await self._later_replacement(note)
        state = LOADED if later is None else SUPERSEDED
        if not await self._record(state, target=note.target if note else "", note=note):
            await self._check_done(note, url)
        elif later is not None:
            log.warning("load_superseded", url=url, run_id=self.run_id, agency_id=self.agency, by_run_id=later)
        else:
            if note is None or not await self._lock_staging():
                raise UploadMissing(url)
            await self._move_rows(note)
        await drop(self.connection, self.schema, self.staging)

    async def give_up(self, *, target: str) -> None:
        """Make sure that the rows are never loaded. If they were, they stay, as a merge can't be undone."""
        if not await self._record(GIVEN_UP, target=target) and (await self._recorded())["state"] == LOADED:
            log.warning("rows_of_a_failed_run_stay", url=f"{self.url}/{target}", run_id=self.run_id)
        await drop(self.connection, self.schema, self.staging)

    async def _later_replacement(self, note: StagingNote | None) -> str | None:
        """Return the id of a run that replaced the agency's rows with newer ones, if any. Needs the load's lock."""
        if note is None or note.mode is not LoadMode.REPLACE:
            return None
        values = {"target": note.target, "agency_id": number_of(self.agency), "snapshot_at": note.snapshot_at}
        query = statement("later_replacement", values, schema=quoted(self.schema))
        found: str | None = await self.connection.fetchval(*query)
        return found

    async def _check_done(self, note: StagingNote | None, url: str) -> None:
        """Raise TableConflict unless the rows loaded before are exactly these."""
        recorded = await self._recorded()
        if recorded["state"] == GIVEN_UP:
            raise TableConflict(url, why="the run was given up")
        if (recorded["attempt"], recorded["sha256"]) != (self.attempt, self.artifact.sha256):
            raise TableConflict(
                url,
                why=f"attempt {recorded['attempt']} of run {self.run_id!r} was loaded, not attempt {self.attempt}",
            )
        if note is not None and recorded["target"] != note.target:
            raise TableConflict(
                url,
                why=f"its rows for the table {note.target!r} would be the dataset's second load in this schema, after "
                f"that of {recorded['target']!r}. Two destinations lead to the same schema, by different names of its "
                "server: merge them, or use a separate schema for each",
            )

    async def _lock_staging(self) -> bool:
        """Keep others from dropping the staging table. Return False if it is gone."""
        try:
            staging = table_name(self.schema, self.staging)
            await self.connection.execute(*statement("lock_staging", staging=staging))
        except asyncpg.UndefinedTableError:
            return False
        return True

    async def _move_rows(self, note: StagingNote) -> None:
        staging = table_name(self.schema, self.staging)
        found = await self.connection.fetch(*statement("staged_columns", {"staging": staging}))
        columns = [row["name"] for row in found]
        # A merge updates every column but the key. DO UPDATE needs an assignment even if there is no other column.
        updated = [name for name in columns if name not in note.merge_key] or [note.agency_column]
        parts = {
            "target": table_name(self.schema, note.target),
            "staging": staging,
            "columns": column_list(columns),
            "key": column_list(note.merge_key),
            "assignments": ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in updated),
            "agency_column": quoted(note.agency_column),
            "agency": literal(self.agency),
        }
        if note.mode is LoadMode.REPLACE:
            await self.connection.execute(*statement("delete_agency", **parts))
        merges = note.mode is LoadMode.MERGE
        moved = statement("merge_rows", **parts) if merges else statement("insert_rows", **parts)
        taken = rows_of(await self.connection.execute(*moved))
        if taken != self.artifact.rows:
            why = "another agency has rows with the same key" if merges else "the staging table was changed"
            raise TableConflict(
                f"{self.url}/{note.target}",
                why=f"it took {taken:,} of {self.artifact.rows:,} rows. Either {why}, or a trigger or rule of the "
                "table drops some",
            )

    async def _record(self, state: str, *, target: str, note: StagingNote | None = None) -> bool:
        """Insert the row of this run and dataset into `pipeline_loads`. Return False if there is one already."""
        values: dict[str, Any] = {
            "run_id": self.run_id,
            "dataset": self.artifact.dataset,
            "agency_id": number_of(self.agency),
            "attempt": self.attempt,
            "target": target,
            "state": state,
            "mode": note and note.mode.value,
            "snapshot_at": note and note.snapshot_at,
            "rows": self.artifact.rows,
            "checksum": self.artifact.sha256,
        }
        query = statement("note_load", values, schema=quoted(self.schema))
        return bool(await self.connection.fetchval(*query))

    async def _recorded(self) -> asyncpg.Record:
        """Return the row that `_record` found."""
        values = {"run_id": self.run_id, "dataset": self.artifact.dataset}
        return await self.connection.fetchrow(*statement("noted_load", values, schema=quoted(self.schema)))
