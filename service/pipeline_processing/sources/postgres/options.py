"""Source `postgres`: a query, read in the run's one snapshot."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar, Protocol

from pydantic import Field

from pipeline_processing.log import get_logger
from pipeline_processing.options.durations import Duration
from pipeline_processing.options.parts import Part
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import BuildContext, Source
from pipeline_processing.rows.columns import Columns
from pipeline_processing.sources.postgres.query_columns import names_of_query, placeholders_of_query

if TYPE_CHECKING:
    from pipeline_processing.settings.settings import Settings

log = get_logger(__name__)


class PostgresSourceConfig(Part):
    """A query, read in the run's one snapshot."""

    needs_source_database: ClassVar[bool] = True
    has_infinity: ClassVar[bool] = True
    how_to_use_agency: ClassVar[str] = "Name it in `args`, and write its $1, $2, … into the query."

    query: str = Field(min_length=1, description="SQL; $1, $2, … stand for `args`.")
    args: tuple[str, ...] = Field(
        (),
        description="Names: agency_id, which must be there unless the dataset is `shared`, run_id, since, until, or "
        "one of the request's params.",
    )
    statement_timeout: Duration | None = Field(None, description="e.g. 90s, 15m, 1h; none by default.")

    @property
    def names(self) -> frozenset[str]:
        """Names of the values passed to the query."""
        return frozenset(self.args)

    @property
    def uses_agency(self) -> bool:
        """
        Whether the query uses `agency_id`. If the query can't be parsed here, `args` alone decides, because Postgres
        rejects unused parameters.
        """
        numbers = {number for number, arg in enumerate(self.args, start=1) if arg == "agency_id"}
        placeholders = placeholders_of_query(self.query)
        return bool(numbers if placeholders is None else numbers & placeholders)

    def columns_in(self, carry: str) -> Columns:
        """Return the columns that are known from the query's text."""
        return names_of_query(self.query)


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
