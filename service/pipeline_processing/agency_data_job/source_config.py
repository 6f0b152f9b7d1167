"""The sources of a dataset, as a job config writes them."""

from typing import Annotated

from pydantic import Field, Tag

from pipeline_processing import plugins
from pipeline_processing.options.durations import Duration
from pipeline_processing.options.one_key import one_key
from pipeline_processing.options.parts import Entry, Part
from pipeline_processing.options.plugin_entry import PluginEntry
from pipeline_processing.sources.http.options import HttpSourceConfig
from pipeline_processing.sources.postgres.query_columns import placeholders_of_query


class PostgresSourceConfig(Part):
    """A query, read in the run's one snapshot."""

    query: str = Field(min_length=1, description="SQL; $1, $2, … stand for `args`.")
    args: tuple[str, ...] = Field(
        (),
        description="Names: agency_id, which must be there unless the dataset is `shared`, run_id, since, until, or "
        "one of the request's params.",
    )
    statement_timeout: Duration | None = Field(None, description="e.g. 90s, 15m, 1h; none by default.")

    @property
    def names(self) -> frozenset[str]:
        """Names of the values that the query gets."""
        return frozenset(self.args)

    def uses(self, name: str) -> bool:
        """
        Whether the query uses the value of that name. Where the query can't be read here, `args` alone decides:
        Postgres then refuses a parameter that isn't used.
        """
        numbers = {number for number, arg in enumerate(self.args, start=1) if arg == name}
        placeholders = placeholders_of_query(self.query)
        return bool(numbers if placeholders is None else numbers & placeholders)


class PostgresSourceEntry(Entry):
    postgres: PostgresSourceConfig


class HttpSourceEntry(Entry):
    http: HttpSourceConfig


class PluginSourceEntry(PluginEntry):
    """A source of another package: its name has a dot."""

    group = plugins.SOURCES


SourceConfig = Annotated[
    Annotated[PostgresSourceEntry, Tag("postgres")]
    | Annotated[HttpSourceEntry, Tag("http")]
    | Annotated[PluginSourceEntry, Tag("plugin")],
    one_key("source", {"postgres": PostgresSourceEntry, "http": HttpSourceEntry, "plugin": PluginSourceEntry}),
]
