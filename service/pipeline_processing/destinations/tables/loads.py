"""
Staged rows → their table, once: in one transaction with a note of it in `pipeline_loads`.

Whoever comes later finds the note and does nothing, so completing may be repeated by any worker, and after a lost
reply.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from uuid import UUID

import asyncpg
import structlog

from pipeline_processing.destinations.installation import check_mark, mark_of
from pipeline_processing.destinations.tables.loading_errors import Refused, TableConflict, session
from pipeline_processing.destinations.tables.loading_queries import agency_literal, column_list, statement, table_name
from pipeline_processing.destinations.tables.options import LoadMode
from pipeline_processing.destinations.tables.staging import StagingNote, drop, notes, rows_of
from pipeline_processing.errors import UploadMissing
from pipeline_processing.model import Artifact
from pipeline_processing.postgres.client import DatabaseClient, quoted

LOADED = "loaded"
GIVEN_UP = "given_up"
SUPERSEDED = "superseded"
_TABLES = 2

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One artifact of a plan that is to be loaded, or given up."""

    run_id: str
    dataset: str
    agency_id: int
    attempt: int
    rows: int
    sha256: str
    staging: str

    @classmethod
    def of(cls, artifact: Artifact, metadata: Mapping[str, str], *, staging: str) -> Self:
        """From what the plan has."""
        return cls(
            run_id=metadata["run-id"],
            dataset=artifact.dataset,
            agency_id=int(metadata["agency-id"]),
            attempt=int(metadata["attempt"]),
            rows=artifact.rows,
            sha256=artifact.sha256,
            staging=staging,
        )


class Loads:
    """The loads of one schema. `url` is the destination's, for messages."""

    def __init__(self, *, database: DatabaseClient, schema: str, url: str) -> None:
        self._database = database
        self._schema = schema
        self._quoted = quoted(schema)
        self._url = url

    # -- whose schema it is ----------------------------------------------------------------------

    async def verify_installation(self, installation: UUID) -> None:
        """Writes nothing. Raises ForeignPrefix."""
        async with session(self._database) as connection:
            if await self._is_set_up(connection):
                await self._check(connection, installation)

    async def mark_installation(self, installation: UUID) -> None:
        """Raises ForeignPrefix."""
        async with session(self._database) as connection:
            await self._set_up(connection)
            await connection.execute(*statement("mark_installation", {"history_id": installation}, schema=self._quoted))
            await self._check(connection, installation)

    async def _check(self, connection: asyncpg.Connection, installation: UUID) -> None:
        owner = await connection.fetchval(*statement("installation", schema=self._quoted))
        if owner is not None:
            check_mark(mark_of(UUID(str(owner))), installation=installation, url=self._url)

    async def _is_set_up(self, connection: asyncpg.Connection) -> bool:
        tables = await connection.fetchval(*statement("bookkeeping_tables", {"schema": self._schema}))
        return bool(tables == _TABLES)

    async def _set_up(self, connection: asyncpg.Connection) -> None:
        # Looked up first: IF NOT EXISTS asks for the right to create even where nothing is to be created.
        if await self._is_set_up(connection):
            return
        async with connection.transaction():
            await connection.execute(*statement("lock_bookkeeping", {"schema": self._schema}))
            await connection.execute(*statement("create_loads", schema=self._quoted))
            await connection.execute(*statement("create_installation", schema=self._quoted))

    # -- loading ---------------------------------------------------------------------------------

    async def complete(self, load: Load) -> None:
        """
        Load the staged rows, unless that was done already, or a run that began later has replaced the agency's rows:
        a run that is rolled forward late would bring the old ones back.

        Raises UploadMissing when there is neither a note nor the staging table, and TableConflict when the table
        doesn't take the rows, another attempt's or another table's were loaded, or the run was given up.
        """
        url = f"{self._url}/{load.dataset}"
        try:
            async with session(self._database) as connection:
                await self._set_up(connection)
                # Not the user's default: at any higher level, what others have committed meanwhile can't be seen.
                async with connection.transaction(isolation="read_committed"):
                    await self._complete(connection, load, url)
        except Refused as error:
            raise TableConflict(url, why=f"Postgres refuses them: {error}") from None

    async def give_up(self, load: Load, *, target: str) -> None:
        """Have a run's rows never be loaded from now on. Those that have been stay: nothing undoes a merge."""
        async with session(self._database) as connection:
            await self._set_up(connection)
            async with connection.transaction(isolation="read_committed"):
                if not await self._note(connection, load, target=target, state=GIVEN_UP):
                    noted = await self._noted(connection, load)
                    if noted["state"] == LOADED:
                        log.warning("rows_of_a_failed_run_stay", url=f"{self._url}/{target}", run_id=load.run_id)
                await drop(connection, self._schema, load.staging)

    async def _complete(self, connection: asyncpg.Connection, load: Load, url: str) -> None:
        note = (await notes(connection, self._schema, begins=load.staging)).get(load.staging)
        if note is not None:
            what = f"{table_name(self._schema, note.target)} {load.agency_id}"
            await connection.execute(*statement("lock_load", {"what": what}))
        later = await self._later_replacement(connection, load, note)
        state = LOADED if later is None else SUPERSEDED
        if not await self._note(connection, load, target=note.target if note else "", state=state, note=note):
            await self._check_done(connection, load, note, url)
        elif later is not None:
            log.warning("load_superseded", url=url, run_id=load.run_id, agency_id=load.agency_id, by_run_id=later)
        else:
            if note is None or not await self._keep(connection, load):
                raise UploadMissing(url)
            await self._load(connection, load, note, f"{self._url}/{note.target}")
        await drop(connection, self._schema, load.staging)

    async def _later_replacement(
        self, connection: asyncpg.Connection, load: Load, note: StagingNote | None
    ) -> str | None:
        """The run whose rows a load would take the agency back from. The load's lock is held."""
        if note is None or note.mode is not LoadMode.REPLACE:
            return None
        values = {"target": note.target, "agency_id": load.agency_id, "snapshot_at": note.snapshot_at}
        found: str | None = await connection.fetchval(*statement("later_replacement", values, schema=self._quoted))
        return found

    async def _check_done(self, connection: asyncpg.Connection, load: Load, note: StagingNote | None, url: str) -> None:
        noted = await self._noted(connection, load)
        if noted["state"] == GIVEN_UP:
            raise TableConflict(url, why="the run was given up")
        if (noted["attempt"], noted["sha256"]) != (load.attempt, load.sha256):
            raise TableConflict(
                url, why=f"attempt {noted['attempt']} of run {load.run_id!r} was loaded, not attempt {load.attempt}"
            )
        if note is not None and noted["target"] != note.target:
            raise TableConflict(
                url,
                why=f"its rows for the table {note.target!r} would be the dataset's second load in this schema, after "
                f"that of {noted['target']!r}. Two destinations lead to one schema, by different names of its server: "
                "make them one, or give each a schema of its own",
            )

    async def _keep(self, connection: asyncpg.Connection, load: Load) -> bool:
        """Have nobody drop the staging table any more; whether it is there."""
        try:
            await connection.execute(*statement("lock_staging", staging=table_name(self._schema, load.staging)))
        except asyncpg.UndefinedTableError:
            return False
        return True

    async def _load(self, connection: asyncpg.Connection, load: Load, note: StagingNote, url: str) -> None:
        staging = table_name(self._schema, load.staging)
        columns = [row["name"] for row in await connection.fetch(*statement("staged_columns", {"staging": staging}))]
        parts = {
            "target": table_name(self._schema, note.target),
            "staging": staging,
            "columns": column_list(columns),
            "key": column_list(note.merge_key),
            "assignments": _assignments(columns, note),
            "agency_column": quoted(note.agency_column),
            "agency": agency_literal(load.agency_id),
        }
        if note.mode is LoadMode.REPLACE:
            await connection.execute(*statement("delete_agency", **parts))
        query = "merge_rows" if note.mode is LoadMode.MERGE else "insert_rows"
        taken = rows_of(await connection.execute(*statement(query, **parts)))
        if taken != load.rows:
            raise TableConflict(url, why=_short_of(taken, load.rows, note.mode))

    async def _note(
        self, connection: asyncpg.Connection, load: Load, *, target: str, state: str, note: StagingNote | None = None
    ) -> bool:
        values = {
            "run_id": load.run_id,
            "dataset": load.dataset,
            "agency_id": load.agency_id,
            "attempt": load.attempt,
            "target": target,
            "state": state,
            "mode": note and note.mode.value,
            "snapshot_at": note and note.snapshot_at,
            "rows": load.rows,
            "checksum": load.sha256,
        }
        return bool(await connection.fetchval(*statement("note_load", values, schema=self._quoted)))

    async def _noted(self, connection: asyncpg.Connection, load: Load) -> asyncpg.Record:
        """What `_note` has found instead."""
        values = {"run_id": load.run_id, "dataset": load.dataset}
        return await connection.fetchrow(*statement("noted_load", values, schema=self._quoted))


def _assignments(columns: list[str], note: StagingNote) -> str:
    """Every column that rows have but the key. Where that is all of them, something has to be written all the same."""
    changed = [name for name in columns if name not in note.merge_key] or [note.agency_column]
    return ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in changed)


def _short_of(taken: int, rows: int, mode: LoadMode) -> str:
    why = "another agency has rows with the same key" if mode is LoadMode.MERGE else "the staging table was changed"
    return f"it took {taken:,} of {rows:,} rows. Either {why}, or a trigger or rule of the table drops some"
