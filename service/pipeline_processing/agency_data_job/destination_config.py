"""The destinations of a job, as a job config writes them."""

from pathlib import Path
from typing import Annotated

from pydantic import Tag, field_validator

from pipeline_processing import plugins
from pipeline_processing.agency_data_job.parts import Entry, Part
from pipeline_processing.agency_data_job.postgres_destination import PostgresDestinationConfig
from pipeline_processing.agency_data_job.s3_destination import S3DestinationConfig
from pipeline_processing.one_key import one_key
from pipeline_processing.plugin_entry import PluginEntry


class FileDestinationConfig(Part):
    """A folder, absolute."""

    path: Path

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        if not path.is_absolute():
            raise ValueError(f"must be an absolute path, not {str(path)!r}")
        return path


class S3DestinationEntry(Entry):
    s3: S3DestinationConfig


class FileDestinationEntry(Entry):
    file: FileDestinationConfig


class PostgresDestinationEntry(Entry):
    postgres: PostgresDestinationConfig


class PluginDestinationEntry(PluginEntry):
    """A destination of another package: its name has a dot."""

    group = plugins.DESTINATIONS


DestinationConfig = Annotated[
    Annotated[S3DestinationEntry, Tag("s3")]
    | Annotated[FileDestinationEntry, Tag("file")]
    | Annotated[PostgresDestinationEntry, Tag("postgres")]
    | Annotated[PluginDestinationEntry, Tag("plugin")],
    one_key(
        "destination",
        {
            "s3": S3DestinationEntry,
            "file": FileDestinationEntry,
            "postgres": PostgresDestinationEntry,
            "plugin": PluginDestinationEntry,
        },
    ),
]
