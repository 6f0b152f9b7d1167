"""The sources of a dataset, as a job config writes them."""

from typing import Annotated

from pydantic import Field, Tag

from pipeline_processing import plugins
from pipeline_processing.agency_data_job.http_source import HttpSourceConfig
from pipeline_processing.agency_data_job.parts import Entry, Part
from pipeline_processing.durations import Duration
from pipeline_processing.one_key import one_key
from pipeline_processing.plugin_entry import PluginEntry


class PostgresSourceConfig(Part):
    """A query, read in the run's one snapshot."""

    query: str = Field(min_length=1, description="SQL; $1, $2, … stand for `args`.")
    args: tuple[str, ...] = Field(
        (), description="Names: agency_id, run_id, since, until, or one of the request's params."
    )
    statement_timeout: Duration | None = Field(None, description="e.g. 90s, 15m, 1h; none by default.")


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
