"""Datasets into tables of one schema of a Postgres."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import quote
from uuid import UUID, uuid4

from pipeline_processing.aio.tasks import shielded
from pipeline_processing.destinations.tables.loading_errors import session
from pipeline_processing.destinations.tables.loads import Load, Loads
from pipeline_processing.destinations.tables.options import PostgresDestinationConfig
from pipeline_processing.destinations.tables.staging import PREFIX, StagingNote, StagingTable, drop, notes
from pipeline_processing.destinations.tables.table_upload import TableUpload
from pipeline_processing.destinations.tables.target_table import Target, TargetMissing, find_target
from pipeline_processing.errors import DestinationUnavailable, JobConfigError, SettingsError
from pipeline_processing.model import Artifact, StagedTable, UploadRef
from pipeline_processing.ports import Content, UploadStarted
from pipeline_processing.postgres.client import DatabaseClient

SESSION_SETTINGS = {
    # What reading values depends on: artifacts are written with these (the contract's Values).
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "lc_monetary": "C",
    # A plan relies on rows that were reported as stored, and a run's success on its load.
    "synchronous_commit": "on",
    # A load may take long, and may wait for another of its agency, but a process that stands still may keep nobody.
    "statement_timeout": "0",
    "lock_timeout": "60s",
    "idle_in_transaction_session_timeout": "60s",
}
"""Settings that the sessions of a destination need, whatever the user's defaults are."""


class PostgresDestination:
    """
    A `Destination` that holds tables.

    Rows wait in a staging table beside their target, from which `complete` loads them in one transaction with a note of
    it in `pipeline_loads`. `database` has `SESSION_SETTINGS`, no limit for a command, and a connection for each run.
    """

    holds_tables = True

    def __init__(
        self,
        *,
        database: DatabaseClient,
        config: PostgresDestinationConfig,
        new_id: Callable[[], str] = lambda: uuid4().hex,
    ) -> None:
        """`new_id` names staging tables."""
        self._database = database
        self._config = config
        self._schema = config.schema_name
        self._new_id = new_id
        self._seen: set[str] = set()
        """Datasets whose tables have been there."""
        # Plans name it, so it has to stay what it is however the DSN is written.
        self.url = f"postgresql://{quote(database.where, safe=':/,[]')}/{quote(self._schema, safe='')}"
        self._loads = Loads(database=database, schema=self._schema, url=self.url)

    async def check(self, datasets: Sequence[str], *, columns: Mapping[str, Sequence[str]] | None = None) -> None:
        """
        Whether these datasets could be loaded: tables, columns, index and rights are there. Writes nothing.

        `columns` are those of the rows, of the datasets of which they are known.

        Raises JobConfigError, with all faults, AccessDenied, or a TransientError.
        """
        faults = []
        try:
            self._config.check_datasets(datasets)
        except ValueError as error:
            faults.append(f"The destination's options don't fit: {error}.")
        async with session(self._database) as connection:
            for dataset in datasets:
                try:
                    target = await find_target(connection, self._config, dataset, where=self._database.where)
                    if columns is not None and dataset in columns:
                        target.require(columns[dataset])
                        target.require_key(columns[dataset])
                        target.require_complete(columns[dataset])
                except JobConfigError as error:
                    faults.append(str(error))
        if faults:
            raise JobConfigError("\n".join(faults))

    async def verify_installation(self, installation: UUID) -> None:
        """See `Destination`."""
        await self._loads.verify_installation(installation)

    async def mark_installation(self, installation: UUID) -> None:
        """See `Destination`."""
        await self._loads.mark_installation(installation)

    @asynccontextmanager
    async def open(
        self, key: str, content: Content, *, metadata: Mapping[str, str], on_started: UploadStarted
    ) -> AsyncIterator[TableUpload]:
        """See `Destination`. Raises JobConfigError, here or in writing, where the rows' columns don't fit the table."""
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
            session=partial(session, self._database),
            target=target,
            staging=StagingTable(target=target, name=name, agency_id=int(metadata["agency-id"])),
            content=content,
        )
        await on_started(UploadRef(key=key, upload_id=name))
        keep = False
        try:
            await upload.start(note)
            yield upload
            keep = upload.sealed
        finally:
            await shielded(upload.close(keep=keep))

    async def _target(self, dataset: str) -> Target:
        """One that was there before and is missing may be about to be made anew."""
        try:
            async with session(self._database) as connection:
                target = await find_target(connection, self._config, dataset, where=self._database.where)
        except TargetMissing as missing:
            if dataset not in self._seen:
                raise
            raise DestinationUnavailable(f"{missing} The table was there before, so it is tried again.") from missing
        self._seen.add(dataset)
        return target

    async def complete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        """See `Destination`."""
        if not isinstance(artifact.staged, StagedTable):
            raise SettingsError(
                f"The stored plan of {artifact.key} was made for objects, not for the tables of {self.url}. Set the "
                "job config's `destinations` back to what they were until this run has finished."
            )
        await self._loads.complete(Load.of(artifact, metadata, staging=artifact.staged.table))

    async def publish(self, key: str, body: bytes, *, metadata: Mapping[str, str]) -> None:
        """See `Destination`: it holds tables."""
        raise AssertionError(f"{key} can't stand among tables")

    async def exists(self, key: str) -> bool:
        """See `Destination`: it holds tables."""
        raise AssertionError(f"{key} can't stand among tables")

    async def abort(self, upload: UploadRef) -> None:
        """See `Destination`."""
        async with session(self._database) as connection:
            await drop(connection, self._schema, upload.upload_id)

    async def delete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        """See `Destination`. Rows that have been loaded stay, and are reported in the log: nothing undoes a merge."""
        if isinstance(artifact.staged, StagedTable):
            load = Load.of(artifact, metadata, staging=artifact.staged.table)
            await self._loads.give_up(load, target=self._config.table_of(artifact.dataset))

    async def pending_uploads(self) -> AsyncIterator[UploadRef]:
        """See `Destination`."""
        async with session(self._database) as connection:
            found = await notes(connection, self._schema)
        for name, note in found.items():
            yield UploadRef(key=note.key, upload_id=name)
