"""Source `postgres`: a table or a query, read in the run's one snapshot."""

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema, model_validator

from pipeline_processing.log import get_logger
from pipeline_processing.options.config_file import FOLDER, fault_below
from pipeline_processing.options.durations import Duration
from pipeline_processing.options.parts import Part
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import BuildContext, Source
from pipeline_processing.postgres.identifiers import Identifier, quoted
from pipeline_processing.postgres.query_faults import query_faults
from pipeline_processing.rows.columns import Columns
from pipeline_processing.sources.postgres.query_columns import names_of_query, placeholders_of_query

if TYPE_CHECKING:
    from pipeline_processing.settings.settings import Settings

log = get_logger(__name__)


_OF_A_QUERY = ("args",)
_OF_A_TABLE = ("columns", "agency_column", "key", "updated_column")


def _table(name: str) -> str:
    if not re.fullmatch(_NAMES, name):
        raise ValueError("must be the name of a table or view, or `schema.name`, without quotes")
    return name


_NAMES = r"^[^.\x00]+(\.[^.\x00]+)?$"

Table = Annotated[str, AfterValidator(_table), Field(json_schema_extra={"pattern": _NAMES})]
Key = Annotated[
    tuple[Identifier, ...],
    BeforeValidator(lambda key: (key,) if isinstance(key, str) else key),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class PostgresSourceConfig(Part):
    """A table or a query, read in the run's one snapshot."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"properties": {n: {}}, "required": [n]} for n in ("table", "query", "query_file")]
        }
    )

    needs_source_database: ClassVar[bool] = True
    has_infinity: ClassVar[bool] = True

    table: Table | None = Field(
        None, description="Table or view, `name` or `schema.name`, as Postgres has it, without quotes."
    )
    columns: tuple[Identifier, ...] | None = Field(
        None, min_length=1, description="Columns of the table, in this order; all if not set."
    )
    agency_column: Identifier | None = Field(
        None, description="Column with the agency's id, which must be there unless the dataset is `shared`."
    )
    key: Key = Field(
        (), description="Columns that tell the table's rows apart: rows come in their order; in any order if not set."
    )
    updated_column: Identifier | None = Field(
        None, description="Column with the time of a row's last change: only rows from `since` until `until` are read."
    )
    query: str | None = Field(None, min_length=1, description="SQL instead of a table; $1, $2, … stand for `args`.")
    # Only `query` is part of the config's identity: it has the file's content.
    query_file: str | None = Field(
        None, min_length=1, exclude=True, description="File with the query, relative to the job config's folder."
    )
    args: tuple[str, ...] = Field(
        (),
        description="Names: agency_id, which must be there unless the dataset is `shared`, run_id, since, until, or "
        "one of the request's params.",
    )
    statement_timeout: Duration | None = Field(None, description="e.g. 90s, 15m, 1h; none by default.")

    @model_validator(mode="before")
    @classmethod
    def _query_of_its_file(cls, options: Any, info: ValidationInfo) -> Any:
        if not isinstance(options, Mapping) or not isinstance(options.get("query_file"), str):
            return options
        if "query" in options or "table" in options:
            return options
        folder = (info.context or {}).get(FOLDER, Path())
        try:
            query = (folder / options["query_file"]).read_text("utf-8-sig")
        except OSError as error:
            why = f"can't be read: {error.strerror}. Its path is relative to the folder of the job config"
            raise fault_below("query_file", why=why) from None
        except ValueError:
            raise fault_below("query_file", why="must be a text file in UTF-8") from None
        if not query:
            raise fault_below("query_file", why="is an empty file: write the query into it")
        return {key: value for key, value in options.items() if key != "query_file"} | {"query": query}

    @model_validator(mode="after")
    def _either_table_or_query(self) -> "PostgresSourceConfig":
        given = [name for name in ("table", "query", "query_file") if getattr(self, name) is not None]
        if len(given) != 1:
            has = f", and has {' and '.join(f'`{name}`' for name in given)}" if given else ""
            raise ValueError(f"needs one of `table`, `query` and `query_file`{has}")
        has, others = ("table", _OF_A_QUERY) if self.query is None else ("query", _OF_A_TABLE)
        if wrong := [name for name in others if getattr(self, name)]:
            raise ValueError(f"`{wrong[0]}` doesn't go with `{has}`")
        return self

    @cached_property
    def sql(self) -> str:
        """The query to read, also of a table."""
        if self.query is not None:
            return self.query
        columns = ", ".join(map(quoted, self.columns or ())) or "*"
        conditions = [
            f"{quoted(column)} {operator} ${number}{cast}"
            for number, (_, column, operator, cast) in enumerate(self._conditions, start=1)
        ]
        parts = [f"SELECT {columns} FROM {'.'.join(map(quoted, str(self.table).split('.')))}"]  # noqa: S608 quoted names
        if conditions:
            parts.append(f"WHERE {' AND '.join(conditions)}")
        if self.key:
            parts.append(f"ORDER BY {', '.join(map(quoted, self.key))}")
        return " ".join(parts)

    @property
    def sql_args(self) -> tuple[str, ...]:
        """The names of the values that $1, $2, … of `sql` stand for."""
        return self.args if self.query is not None else tuple(name for name, *_ in self._conditions)

    @property
    def _conditions(self) -> Sequence[tuple[str, str, str, str]]:
        """What restricts a table's rows: the name of a value, the column, how they compare, and the value's cast."""
        found = []
        if self.agency_column is not None:
            found.append(("agency_id", self.agency_column, "=", ""))
        if self.updated_column is not None:
            # A timestamp without time zone is taken as UTC, the session's zone.
            found.append(("since", self.updated_column, ">=", "::timestamptz"))
            found.append(("until", self.updated_column, "<", "::timestamptz"))
        return found

    @property
    def names(self) -> frozenset[str]:
        """Names of the values passed to the query."""
        return frozenset(self.sql_args)

    @property
    def uses_agency(self) -> bool:
        """
        Whether the query uses `agency_id`. If the query can't be parsed here, `args` alone decides, because Postgres
        rejects unused parameters.
        """
        numbers = {number for number, arg in enumerate(self.sql_args, start=1) if arg == "agency_id"}
        placeholders = placeholders_of_query(self.sql)
        return bool(numbers if placeholders is None else numbers & placeholders)

    @property
    def how_to_use_agency(self) -> str:
        """See `SourceEntry`."""
        if self.query is None:
            return "Name the column with the agency's id as `agency_column`."
        return "Name it in `args`, and write its $1, $2, … into the query."

    @property
    def query_faults(self) -> Iterable[str]:
        """See `Entry`."""
        if self.query is None:
            return ()
        return query_faults(self.query, args=self.args)

    def columns_in(self, carry: str) -> Columns:
        """Return the columns that are known from the query's text."""
        return names_of_query(self.sql)


class _Context(BuildContext, Protocol):
    settings: "Settings"


@asynccontextmanager
async def _opened(*, context: _Context) -> AsyncIterator[Source]:
    from pipeline_processing.sources.postgres.copy_reader import chosen_reader
    from pipeline_processing.sources.postgres.source import PostgresSource, source_database

    reader = chosen_reader(context.settings.source.reader)
    log.info(reader.description)

    async with source_database(context.dsn(None), connections=context.limits.runs) as database:
        yield PostgresSource(
            database=database,
            batch_bytes=context.limits.batch,
            max_row_bytes=context.limits.row,
            large_rows_bytes=context.limits.large_rows,
            decoder=reader.decoder,
            keep_connections=context.settings.source.keep_connections,
            clock=context.clock,
        )


PLUGIN = Plugin(options=PostgresSourceConfig, build=_opened)
