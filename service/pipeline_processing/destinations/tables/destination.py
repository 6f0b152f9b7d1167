"""The destination `postgres`: loads datasets into the tables of one schema."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import quote, unquote
from uuid import UUID, uuid4

import asyncpg
from pydantic import SecretStr

from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.aio.tasks import shielded
from pipeline_processing.destinations.installation import check_mark, mark_of
from pipeline_processing.destinations.tables.errors import Refused, TableConflict, session
from pipeline_processing.destinations.tables.loads import Load, is_set_up, set_up
from pipeline_processing.destinations.tables.options import PostgresDestinationConfig
from pipeline_processing.destinations.tables.queries import statement
from pipeline_processing.destinations.tables.staging import PREFIX, StagingNote, StagingTable, drop, notes
from pipeline_processing.destinations.tables.target import Target, TargetMissing, find_target
from pipeline_processing.destinations.tables.upload import TableUpload
from pipeline_processing.errors import ConflictingObjects, DestinationUnavailable, JobConfigError, SettingsError
from pipeline_processing.plan import Artifact, StagedTable, UploadRef
from pipeline_processing.ports import Content, UploadStarted
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.postgres.identifiers import quoted

SESSION_SETTINGS = {
    # How values are read. Artifacts are written with the same settings (see Values in the contract).
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "lc_monetary": "C",
    # How keys of agencies are quoted.
    "standard_conforming_strings": "on",
    # A stored plan relies on its staged rows, and a run's success on its load: both must survive a crash.
    "synchronous_commit": "on",
    # A load may take long, and may wait for another load of its agency. A hanging process must not block others.
    "statement_timeout": "0",
    "lock_timeout": "60s",
    "idle_in_transaction_session_timeout": "60s",
}
"""Session settings that override the database user's defaults."""


def target_database(dsn: SecretStr, *, connections: int) -> DatabaseClient:
    """Return a connection pool for the database that holds the tables."""
    return DatabaseClient(
        dsn=dsn.get_secret_value(),
        unavailable=DestinationUnavailable,
        max_size=connections,
        server_settings=SESSION_SETTINGS,
    )


class PostgresDestination:
    """
    A `Destination` that holds tables.

    Rows are staged in a table beside their target. `complete` loads them, in one transaction with a row in
    `pipeline_loads`. It is also a `ManifestStore`, for jobs without objects. `database` must have `SESSION_SETTINGS`,
    no command timeout, and a connection for each run.
    """

    holds_tables = True

    def __init__(
        self,
        *,
        database: DatabaseClient,
        config: PostgresDestinationConfig,
        agency_key: AgencyKey = AgencyKey.INTEGER,
        new_id: Callable[[], str] = lambda: uuid4().hex,
    ) -> None:
        """`new_id` names staging tables."""
        self.pool = database
        self._config = config
        self._agency_key = agency_key
        self._schema = config.schema_name
        self._new_id = new_id
        self._seen: set[str] = set()
        """Datasets whose table has been found."""
        # Plans refer to the destination by URL, so it must not depend on how the DSN is written.
        self.url = f"postgresql://{quote(database.where, safe=':/,[]')}/{quote(self._schema, safe='')}"

    async def check(self, datasets: Sequence[str], *, columns: Mapping[str, Sequence[str]] | None = None) -> None:
        """
        Check that these datasets can be loaded: tables, columns, indexes and privileges. Writes nothing.

        `columns` has the rows' columns by dataset, where they are known.

        Raises JobConfigError listing all faults, AccessDenied, or a TransientError.
        """
        faults = []
        try:
            self._config.check_datasets(datasets)
        except ValueError as error:
            faults.append(f"The destination's options don't fit the datasets: {error}.")
        async with session(self.pool) as connection:
            for dataset in datasets:
                try:
                    target = await self._found(connection, dataset)
                    if columns is not None and dataset in columns:
                        target.check_columns(columns[dataset])
                except JobConfigError as error:
                    faults.append(str(error))
        if faults:
            raise JobConfigError("\n".join(faults))

    async def verify_installation(self, installation: UUID) -> None:
        async with session(self.pool) as connection:
            if await is_set_up(connection, self._schema):
                await self._check_installation(connection, installation)

    async def mark_installation(self, installation: UUID) -> None:
        async with session(self.pool) as connection:
            await set_up(connection, self._schema)
            mark = {"history_id": installation}
            await connection.execute(*statement("mark_installation", mark, schema=quoted(self._schema)))
            await self._check_installation(connection, installation)

    @asynccontextmanager
    async def open(
        self, key: str, content: Content, *, metadata: Mapping[str, str], on_started: UploadStarted
    ) -> AsyncIterator[TableUpload]:
        """See `Destination`. Entering and writing raise JobConfigError if the rows' columns don't fit the table."""
        target = await self._target(content.dataset)
        assert content.snapshot_at is not None, "rejected rows go to objects"
        name = f"{PREFIX}{self._new_id()}"
        note = StagingNote(
            key=key,
            run_id=metadata["run-id"],
            target=target.name,
            mode=target.mode,
            merge_key=target.key,
            agency_column=target.agency_column,
            snapshot_at=content.snapshot_at,
        )
        upload = TableUpload(
            session=partial(session, self.pool),
            target=target,
            staging=StagingTable(target=target, name=name, agency=unquote(metadata["agency-id"]), note=note),
            content=content,
        )
        await on_started(UploadRef(key=key, upload_id=name))
        keep = False
        try:
            await upload.start()
            yield upload
            keep = upload.sealed
        finally:
            await shielded(upload.close(keep=keep))

    async def complete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        if not isinstance(artifact.staged, StagedTable):
            raise SettingsError(
                f"The stored plan of {artifact.key} was made for objects, not for the tables of {self.url}. Set the "
                "job config's `destinations` back to what they were until this run has finished."
            )
        try:
            async with self._load(artifact, artifact.staged, metadata) as load:
                await load.complete()
        except Refused as error:
            raise TableConflict(f"{self.url}/{artifact.dataset}", why=f"Postgres refuses them: {error}") from None

    async def abort(self, upload: UploadRef) -> None:
        async with session(self.pool) as connection:
            await drop(connection, self._schema, upload.upload_id)

    async def delete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        """See `Destination`. A load can't be undone: rows already loaded stay, and a warning is logged."""
        if isinstance(artifact.staged, StagedTable):
            async with self._load(artifact, artifact.staged, metadata) as load:
                await load.give_up(target=self._config.table_of(artifact.dataset))

    async def publish(self, key: str, body: bytes, *, metadata: Mapping[str, str]) -> None:
        """See `ManifestStore`: a row of `pipeline_manifests`, for jobs without a destination of objects."""
        schema = quoted(self._schema)
        try:
            async with session(self.pool) as connection:
                if not await self._has_manifests(connection):
                    async with connection.transaction():
                        await connection.execute(*statement("lock_bookkeeping", {"schema": self._schema}))
                        await connection.execute(*statement("create_manifests", schema=schema))
                row = {"key": key, "run_id": metadata["run-id"], "manifest": body.decode()}
                await connection.execute(*statement("add_manifest", row, schema=schema))
                there = await connection.fetchval(*statement("manifest", {"key": key}, schema=schema))
        except Refused as error:  # someone changed or dropped the table
            raise DestinationUnavailable(f"{self.url} can't store the manifest: {error}.") from None
        if there != body.decode():
            raise ConflictingObjects(f"{self.url}/{key}", why="its content differs")

    async def exists(self, key: str) -> bool:
        """See `ManifestStore`."""
        async with session(self.pool) as connection:
            if not await self._has_manifests(connection):
                return False
            query = statement("manifest", {"key": key}, schema=quoted(self._schema))
            return await connection.fetchval(*query) is not None

    async def pending_uploads(self) -> AsyncIterator[UploadRef]:
        async with session(self.pool) as connection:
            found = await notes(connection, self._schema)
        for name, note in found.items():
            yield UploadRef(key=note.key, upload_id=name)

    async def _has_manifests(self, connection: asyncpg.Connection) -> bool:
        return bool(await connection.fetchval(*statement("manifests_table", {"schema": self._schema})))

    async def _found(self, connection: asyncpg.Connection, dataset: str) -> Target:
        return await find_target(connection, self._config, dataset, where=self.pool.where, agency_key=self._agency_key)

    async def _target(self, dataset: str) -> Target:
        """Find the dataset's table. If it existed before, it may be about to be recreated: raise a retryable error."""
        try:
            async with session(self.pool) as connection:
                target = await self._found(connection, dataset)
        except TargetMissing as missing:
            if dataset not in self._seen:
                raise
            raise DestinationUnavailable(f"{missing} The table existed before, so this is retried.") from missing
        self._seen.add(dataset)
        return target

    @asynccontextmanager
    async def _load(self, artifact: Artifact, staged: StagedTable, metadata: Mapping[str, str]) -> AsyncIterator[Load]:
        async with session(self.pool) as connection:
            await set_up(connection, self._schema)
            # Not the user's default: higher levels don't see what others commit after the transaction began.
            async with connection.transaction(isolation="read_committed"):
                yield Load(
                    connection=connection,
                    schema=self._schema,
                    url=self.url,
                    artifact=artifact,
                    staging=staged.table,
                    run_id=metadata["run-id"],
                    agency=unquote(metadata["agency-id"]),
                    attempt=int(metadata["attempt"]),
                )

    async def _check_installation(self, connection: asyncpg.Connection, installation: UUID) -> None:
        owner = await connection.fetchval(*statement("installation", schema=quoted(self._schema)))
        if owner is not None:
            check_mark(mark_of(UUID(str(owner))), installation=installation, url=self.url)
