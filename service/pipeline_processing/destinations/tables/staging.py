"""Staging tables: where a run's rows wait, already of the target's types, until its plan is completed."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import asyncpg
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline_processing.destinations.tables.loading_errors import Refused, is_refusal
from pipeline_processing.destinations.tables.loading_queries import agency_literal, column_list, statement, table_name
from pipeline_processing.destinations.tables.options import LoadMode
from pipeline_processing.destinations.tables.target_table import Check, Target
from pipeline_processing.errors import DataError
from pipeline_processing.model import CsvOptions
from pipeline_processing.postgres.client import quoted

PREFIX = "_pp_"
"""What the names of staging tables begin with."""
_AGENCY_CHECK = "pp_agency"


class StagingNote(BaseModel):
    """
    What a staging table's comment says: whose rows it holds, and how they are to be loaded. So a job config that is
    changed afterwards can't change what a stored plan does.
    """

    model_config = ConfigDict(frozen=True)

    key: str
    run_id: str
    target: str
    mode: LoadMode
    merge_key: tuple[str, ...]
    agency_column: str
    snapshot_at: datetime
    """Which of two runs has the newer rows, whichever comes to this dataset first."""


async def notes(connection: asyncpg.Connection, schema: str, *, begins: str = PREFIX) -> dict[str, StagingNote]:
    """Staging tables of a schema by name, those whose names begin so; without tables that only look like it."""
    found = {}
    for row in await connection.fetch(*statement("staging_tables", {"schema": schema, "begins": begins})):
        try:
            found[row["name"]] = StagingNote.model_validate_json(row["comment"] or "")
        except ValidationError:
            continue
    return found


async def drop(connection: asyncpg.Connection, schema: str, name: str) -> None:
    """Also if it is gone already. Whatever a plan names, nothing but staging tables is ever dropped."""
    if not name.startswith(PREFIX):
        raise ValueError(f"{name!r} isn't a staging table")
    await connection.execute(*statement("drop_staging", staging=table_name(schema, name)))


class StagingTable:
    """
    The staging table of one upload.

    It has the columns that rows have, with the target's types, collations and NOT NULLs, and the agency column, which
    can hold but one id: whatever a row of the target could not be is refused when it comes, not when the run is
    decided.
    """

    def __init__(self, *, target: Target, name: str, agency_id: int) -> None:
        self.columns: list[str] = []
        """Those that rows have had so far."""
        self.name = name
        self._target = target
        self._agency_id = agency_id
        self._quoted = table_name(target.schema, name)

    async def create(self, connection: asyncpg.Connection, columns: Sequence[str], note: StagingNote) -> None:
        """With columns that all rows have."""
        self._target.require(columns)
        others = [self._defined(name) for name in columns if name != self._target.agency_column]
        parts = {"staging": self._quoted, "columns": ", ".join([self._agency_column(), *others])}
        comment = {"schema": self._target.schema, "name": self.name, "comment": note.model_dump_json()}
        async with connection.transaction():  # a staging table without its comment would never be found
            await connection.execute(*statement("create_staging", **parts))
            await connection.execute(await connection.fetchval(*statement("comment_on_staging", comment)))
        self.columns = list(columns)

    async def provide(self, connection: asyncpg.Connection, columns: Iterable[str]) -> None:
        """Columns that rows to come have. Raises JobConfigError if the target hasn't."""
        new = [name for name in columns if name not in self.columns]
        self._target.require(new)
        for name in new:
            if name != self._target.agency_column:
                await connection.execute(*statement("add_column", staging=self._quoted, column=self._defined(name)))
            self.columns.append(name)

    async def insert_lines(self, connection: asyncpg.Connection, lines: bytes) -> int:
        """
        Whole lines of NDJSON; the number of rows. Raises Refused, which names the column if that can be found.

        What JSON doesn't tell is lost: a document `null` becomes a null, arrays begin at 1, those of documents that are
        arrays gain a dimension. Types whose JSON isn't their own text, such as hstore, are refused. CSV loses nothing.
        """
        if not self.columns:
            raise DataError(f"The rows of dataset {self._target.dataset!r} have no columns to load. Select some.")
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

    async def copy_csv(self, connection: asyncpg.Connection, records: bytes, options: CsvOptions) -> int:
        """Whole records of CSV without the header, in the order of `columns`; the number of rows. Raises Refused."""
        if not self.columns:
            raise DataError(f"The rows of dataset {self._target.dataset!r} have no columns to load. Select some.")
        try:
            status = await connection.copy_to_table(
                self.name,
                schema_name=self._target.schema,
                source=memoryview(records),  # asyncpg takes bytes for the path of a file
                columns=self.columns,
                format="csv",
                header=False,
                delimiter=options.delimiter,
                null=options.null,
            )
        except asyncpg.PostgresError as error:
            if not is_refusal(error):
                raise
            raise Refused(error, column=self._named_in(getattr(error, "context", None))) from None
        return rows_of(status)

    async def check_rows(self, connection: asyncpg.Connection) -> None:
        """
        Raises DataError for what a unique index of the target would refuse, as far as it is known before the load: two
        rows with one key, a key of another agency's row; if rows are to be merged, a null in a key; and for what its
        CHECKs refuse. Raises JobConfigError if a column is missing.
        """
        target, dataset = self._target, self._target.dataset
        if not self.columns:
            return  # nor are there rows
        target.require_key(self.columns)
        target.require_complete(self.columns)
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
                    "index on that. Make the query, or the steps, give each such row once."
                )
            if self._stays_apart(key) and await self._any(connection, "foreign_keys", key):
                raise DataError(
                    f"Dataset {dataset!r}: a row is the same in {', '.join(key)} as another agency's row in {target}, "
                    "which is left alone. Find out whose it is, or make the agency's id part of that unique index."
                )

        for check in target.checks:
            if self._is_numbered(check):
                continue
            parts = {"staging": self._quoted, "check": check.expression, **self._filled_in(check)}
            if await connection.fetchval(*statement("violations", **parts)):
                raise DataError(
                    f"Dataset {dataset!r}: {target} can't take a row: its constraint {check.name!r} refuses it. "
                    "Correct the data, the steps or the table."
                )

    def _is_numbered(self, check: Check) -> bool:
        """Whether a CHECK may read a number that rows are given only by the load, itself or in a generated column."""
        columns, staged = self._target.columns, (*self.columns, self._target.agency_column)
        missing = [name for name in check.columns if name not in staged]
        made_of = [columns[name].expression or "" for name in missing if columns[name].generated]
        return any(
            name in missing or any(quoted(name)[1:-1] in expression for expression in made_of)
            for name, column in columns.items()
            if column.numbered and name not in staged
        )

    def _filled_in(self, check: Check) -> dict[str, str]:
        """Columns that a CHECK reads and rows don't have, as the target fills them in: plain ones, then generated."""
        columns = self._target.columns
        missing = [name for name in columns if name not in (*self.columns, self._target.agency_column)]
        generated = [name for name in missing if columns[name].generated and name in check.columns]
        # Which columns a generated one is made of isn't looked up, but no number is: see `_is_numbered`.
        given = [name for name in missing if not columns[name].generated and not columns[name].numbered]
        plain = [name for name in given if generated or name in check.columns]
        return {"plain": self._selected(plain), "generated": self._selected(generated)}

    def _selected(self, names: Iterable[str]) -> str:
        columns = ((name, self._target.columns[name]) for name in names)
        return "".join(
            f", CAST(({one.expression or 'NULL'}) AS {one.type}){one.collate} AS {quoted(name)}"
            for name, one in columns
        )

    def _stays_apart(self, key: Sequence[str]) -> bool:
        """Whether, of the target's rows, only another agency's can be in the way of a staged one with the same key."""
        match self._target.mode:
            case LoadMode.REPLACE:
                return True
            case LoadMode.MERGE:
                return set(key) == set(self._target.key)
        return False

    def told(self, error: Refused) -> DataError:
        """A refusal of rows as the run's error."""
        target = self._target
        place = f"Dataset {target.dataset!r}"
        if error.constraint == _AGENCY_CHECK or error.column == target.agency_column:
            return DataError(
                f"{place}: a row's {target.agency_column!r} isn't the run's agency, {self._agency_id}, and {target} "
                "takes an agency's own rows only. Correct the query, or leave the column out: then it is filled in."
            )
        return DataError(f"{place}: {target} can't take a row: {error}. Correct the data, the steps or the table.")

    async def _any(self, connection: asyncpg.Connection, query: str, key: Sequence[str]) -> bool:
        parts = {
            "staging": self._quoted,
            "target": self._target.quoted,
            "columns": column_list(key),
            "all_there": " AND ".join(f"{quoted(name)} IS NOT NULL" for name in key),
            "same_key": " AND ".join(f"s.{quoted(name)} = t.{quoted(name)}" for name in key),
            "agency_column": quoted(self._target.agency_column),
            "agency": agency_literal(self._agency_id),
        }
        return bool(await connection.fetchval(*statement(query, **parts)))

    async def _unreadable(self, connection: asyncpg.Connection, array: str) -> str | None:
        """The first column whose values can't be read, which Postgres doesn't tell; none if the lines as such can't."""
        if await self._refuses(connection, array, f"{quoted(self.columns[0])} json"):
            return None
        for name in self.columns:
            if await self._refuses(connection, array, self._typed([name])):
                return name
        return None

    async def _refuses(self, connection: asyncpg.Connection, array: str, typed: str) -> bool:
        try:
            await connection.fetchval(*statement("read_lines", {"lines": array}, typed=typed))
        except asyncpg.PostgresError:
            return True
        return False

    def _named_in(self, context: str | None) -> str | None:
        """The column that COPY's context names: `COPY t, line 1, column a: "…"`. The value may look like one, too."""
        at = [(context.find(f", column {name}: "), name) for name in self.columns] if context else []
        return min(((place, name) for place, name in at if place >= 0), default=(0, None))[1]

    def _typed(self, columns: Iterable[str]) -> str:
        return ", ".join(f"{quoted(name)} {self._target.columns[name].type}" for name in columns)

    def _defined(self, name: str) -> str:
        column = self._target.columns[name]
        return f"{quoted(name)} {column.type}{column.collate}" + (" NOT NULL" if column.not_null else "")

    def _agency_column(self) -> str:
        name, agency = quoted(self._target.agency_column), agency_literal(self._agency_id)
        column = self._target.columns[self._target.agency_column]
        typed = f"{name} {column.type}{column.collate}"
        return f"{typed} NOT NULL DEFAULT {agency} CONSTRAINT {_AGENCY_CHECK} CHECK ({name} = {agency})"


def rows_of(status: str) -> int:
    """`INSERT 0 5` → 5."""
    return int(status.rpartition(" ")[2])
