"""Staging tables, which hold a run's rows beside their target until the run's plan is completed."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import asyncpg
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline_processing.destinations.tables.errors import Refused, is_refusal
from pipeline_processing.destinations.tables.options import LoadMode
from pipeline_processing.destinations.tables.queries import column_list, statement, table_name
from pipeline_processing.destinations.tables.target import Target
from pipeline_processing.errors import DataError
from pipeline_processing.model import CsvOptions
from pipeline_processing.postgres.identifiers import literal, quoted

PREFIX = "_pp_"
"""Prefix of staging tables' names."""


class StagingNote(BaseModel):
    """
    The comment on a staging table: which run's rows it holds, and how to load them.

    A plan is completed according to this note, even if the job config has changed since.
    """

    model_config = ConfigDict(frozen=True)

    key: str
    run_id: str
    target: str
    mode: LoadMode
    merge_key: tuple[str, ...]
    agency_column: str
    snapshot_at: datetime
    """Decides which of two runs has the newer rows, regardless of the order in which they are loaded."""


async def notes(connection: asyncpg.Connection, schema: str, *, begins: str = PREFIX) -> dict[str, StagingNote]:
    """Return the notes of staging tables whose names begin with `begins`, by name. Skips tables without a note."""
    found = {}
    for row in await connection.fetch(*statement("staging_tables", {"schema": schema, "begins": begins})):
        try:
            found[row["name"]] = StagingNote.model_validate_json(row["comment"] or "")
        except ValidationError:
            continue
    return found


async def drop(connection: asyncpg.Connection, schema: str, name: str) -> None:
    """Drop a staging table if it exists. Raises ValueError for the name of any other table."""
    if not name.startswith(PREFIX):
        raise ValueError(f"{name!r} isn't a staging table")
    await connection.execute(*statement("drop_staging", staging=table_name(schema, name)))


class StagingTable:
    """
    The staging table of one upload. It has its target's types, collations, NOT NULLs and CHECKs.

    Thus Postgres refuses a bad row when it arrives, before the run is decided. CHECKs may read columns that the rows
    don't have; these are added with the target's defaults. The agency column accepts only the run's agency.

    The definition is built from the catalog. CREATE TABLE … (LIKE …) would need SELECT on the target, which the role
    lacks for `mode: append`, and would fail on a CHECK of whole rows.
    """

    def __init__(self, *, target: Target, name: str, agency: str, note: StagingNote) -> None:
        self.columns: tuple[str, ...] = ()
        """Columns that the rows have had so far."""
        self.name = name
        self._target = target
        self._agency = agency
        self._note = note
        self._quoted = table_name(target.schema, name)
        self._filled_in: list[str] = []
        """Columns that the rows don't have."""

    async def create(self, connection: asyncpg.Connection, columns: Sequence[str]) -> None:
        """Create the table. `columns` is empty if the columns become known only with the first rows."""
        async with connection.transaction():
            await self._create(connection, columns)
        self.columns = tuple(columns)

    async def add_columns(self, connection: asyncpg.Connection, columns: Iterable[str]) -> None:
        """
        Add columns that rows turn out to have. They are null in the rows already staged.

        Raises JobConfigError if the columns don't fit the target.
        """
        if not (new := [name for name in columns if name not in self.columns]):
            return
        columns = (*self.columns, *new)
        self._target.check_columns(columns)
        there = (*self.columns, self._target.agency_column)
        narrow = table_name(self._target.schema, f"{self.name}_")
        parts = {
            "narrow": narrow,
            "columns": column_list(columns),
            "values": ", ".join(quoted(name) if name in there else "NULL" for name in columns),
        }
        async with connection.transaction():
            await connection.execute(*statement("rename_staging", staging=self._quoted, name=quoted(f"{self.name}_")))
            await self._create(connection, columns)
            await connection.execute(*statement("copy_staging", staging=self._quoted, **parts))
            await connection.execute(*statement("drop_staging", staging=narrow))
        self.columns = columns

    async def insert_lines(self, connection: asyncpg.Connection, lines: bytes) -> int:
        """
        Insert whole lines of NDJSON and return the number of rows. Raises Refused, with the column if it can be found.

        JSON can't distinguish a document `null` from SQL's NULL, has no lower bounds of arrays, and documents that are
        arrays gain a dimension. Types whose JSON isn't their text, such as hstore, are refused. CSV has no such limits.
        """
        array = "[" + lines.decode().removesuffix("\n").replace("\n", ",") + "]"
        parts = {"staging": self._quoted, "columns": column_list(self.columns), "typed": self._typed(self.columns)}
        try:
            status = await connection.execute(*statement("insert_lines", {"lines": array}, **parts))
        except asyncpg.PostgresError as error:
            if not is_refusal(error):
                raise
            column = getattr(error, "column_name", None) or await self._unreadable(connection, array)
            raise Refused(error, column=column) from None
        return rows_of(status)

    async def copy_csv(
        self, connection: asyncpg.Connection, records: bytes, options: CsvOptions, *, header: bool
    ) -> int:
        """Copy whole CSV records, in the order of `columns`, and return the number of rows. Raises Refused."""
        try:
            status = await connection.copy_to_table(
                self.name,
                schema_name=self._target.schema,
                source=memoryview(records),  # asyncpg treats bytes as a file's path
                columns=self.columns,
                format="csv",
                header=header,
                delimiter=options.delimiter,
                null=options.null,
            )
        except asyncpg.PostgresError as error:
            if not is_refusal(error):
                raise
            raise Refused(error, column=self._named_in(getattr(error, "context", None))) from None
        return rows_of(status)

    async def finish(self, connection: asyncpg.Connection) -> None:
        """
        Check the keys of all rows, and drop the columns that the rows don't have.

        Raises DataError for two rows with the same key, the key of another agency's row, or a null in a merge key.
        """
        await self._drop_columns(connection, self._filled_in)
        if not self.columns:
            return  # without columns there are no rows either
        target, dataset = self._target, self._target.dataset
        await connection.execute(*statement("analyze_staging", staging=self._quoted))
        if target.key and await self._any(connection, "incomplete_keys", target.key):
            raise DataError(
                f"Dataset {dataset!r}: a row to be merged into {target} has a null in its key "
                f"({', '.join(target.key)}). Filter such rows out, or give them a key."
            )
        for key in target.unique_keys:
            if not {*self.columns, target.agency_column}.issuperset(key):
                continue
            if await self._any(connection, "duplicates", key):
                raise DataError(
                    f"Dataset {dataset!r}: two of its rows are the same in {', '.join(key)}, and {target} has a unique "
                    "index on that. Make the query or the steps return each such row only once."
                )
            if self._match_is_foreign(key) and await self._any(connection, "foreign_keys", key):
                raise DataError(
                    f"Dataset {dataset!r}: a row is the same in {', '.join(key)} as another agency's row in {target}, "
                    "which must not be changed. Find out whose it is, or add the agency's id to that unique index."
                )

    def error_of(self, refused: Refused) -> DataError:
        """Return the run's error for rows that Postgres refused."""
        target = self._target
        place = f"Dataset {target.dataset!r}"
        if refused.constraint == self.name or refused.column == target.agency_column:
            return DataError(
                f"{place}: a row's {target.agency_column!r} isn't the run's agency, {self._agency}, and {target} "
                "accepts only the run's own agency. Correct the query, or leave the column out to have it filled in."
            )
        return DataError(f"{place}: {target} can't take a row: {refused}. Correct the data, the steps or the table.")

    async def _create(self, connection: asyncpg.Connection, columns: Sequence[str]) -> None:
        target = self._target
        given = {*columns, target.agency_column}
        defined = {name: column for name, column in target.columns.items() if target.checks or name in given}
        definitions = [f"{quoted(name)} {column.definition}" for name, column in defined.items()]
        definitions += [f"CONSTRAINT {quoted(name)} CHECK ({check})" for name, check in target.checks.items()]
        comment = {"schema": target.schema, "name": self.name, "comment": self._note.model_dump_json()}
        agency = {"agency_column": quoted(target.agency_column), "agency": literal(self._agency)}
        await connection.execute(*statement("create_staging", staging=self._quoted, defined=", ".join(definitions)))
        await connection.execute(
            *statement("bind_agency", staging=self._quoted, constraint=quoted(self.name), **agency)
        )
        await connection.execute(await connection.fetchval(*statement("comment_on_staging", comment)))
        self._filled_in = [name for name in defined if name not in given]
        # Only the load may take numbers from a sequence. Columns and CHECKs that depend on such a column go too.
        await self._drop_columns(connection, [name for name in self._filled_in if defined[name].numbered])

    async def _drop_columns(self, connection: asyncpg.Connection, names: Sequence[str]) -> None:
        if names:
            drops = ", ".join(f"DROP COLUMN IF EXISTS {quoted(name)} CASCADE" for name in names)
            await connection.execute(*statement("drop_columns", staging=self._quoted, drops=drops))

    def _match_is_foreign(self, key: Sequence[str]) -> bool:
        """Whether a target row with a staged row's key can, at the load, only belong to another agency."""
        match self._target.mode:
            case LoadMode.REPLACE:
                return True
            case LoadMode.MERGE:
                return set(key) == set(self._target.key)
        return False

    async def _any(self, connection: asyncpg.Connection, query: str, key: Sequence[str]) -> bool:
        parts = {
            "staging": self._quoted,
            "target": self._target.quoted,
            "columns": column_list(key),
            "all_there": " AND ".join(f"{quoted(name)} IS NOT NULL" for name in key),
            "same_key": " AND ".join(f"s.{quoted(name)} = t.{quoted(name)}" for name in key),
            "agency_column": quoted(self._target.agency_column),
            "agency": literal(self._agency),
        }
        return bool(await connection.fetchval(*statement(query, **parts)))

    async def _unreadable(self, connection: asyncpg.Connection, array: str) -> str | None:
        """Find the first column with an unreadable value, as Postgres doesn't name it. None if the JSON is invalid."""

        async def refused(typed: str) -> bool:
            try:
                await connection.fetchval(*statement("read_lines", {"lines": array}, typed=typed))
            except asyncpg.PostgresError:
                return True
            return False

        if await refused(f"{quoted(self.columns[0])} json"):
            return None
        for name in self.columns:
            if await refused(self._typed([name])):
                return name
        return None

    def _named_in(self, context: str | None) -> str | None:
        """Return the first column in COPY's context, `COPY t, line 1, column a: "…"`: a value may look like another."""
        at = [(context.find(f", column {name}: "), name) for name in self.columns] if context else []
        return min(((place, name) for place, name in at if place >= 0), default=(0, None))[1]

    def _typed(self, columns: Iterable[str]) -> str:
        return ", ".join(f"{quoted(name)} {self._target.columns[name].type}" for name in columns)


def rows_of(status: str) -> int:
    """`INSERT 0 5` → 5."""
    return int(status.rpartition(" ")[2])
