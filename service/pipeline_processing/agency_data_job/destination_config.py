"""The destinations of a job, as a job config writes them."""

from pathlib import Path
from typing import Annotated

from pydantic import Tag, field_validator

from pipeline_processing import plugins
from pipeline_processing.destinations.s3.options import S3DestinationConfig
from pipeline_processing.destinations.tables.options import PostgresDestinationConfig
from pipeline_processing.options.one_key import one_key
from pipeline_processing.options.parts import Entry, Part
from pipeline_processing.options.plugin_entry import PluginEntry


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

    @property
    def place(self) -> str:
        """What tells it from others, as all of this service's own have it."""
        return f"s3://{self.s3.bucket}/{self.s3.prefix.strip('/')}"


class FileDestinationEntry(Entry):
    file: FileDestinationConfig

    @property
    def place(self) -> str:
        """See `S3DestinationEntry`."""
        return self.file.path.as_uri()


class PostgresDestinationEntry(Entry):
    postgres: PostgresDestinationConfig

    @property
    def place(self) -> str:
        """See `S3DestinationEntry`."""
        return f"schema {self.postgres.schema_name} of {self.postgres.dsn}"


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
