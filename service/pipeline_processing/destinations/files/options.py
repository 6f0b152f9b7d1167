"""Destination `file`: a folder."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

from pydantic import field_validator

from pipeline_processing.options.parts import Part
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import BuildContext, Destination


class FileDestinationConfig(Part):
    """A folder, absolute."""

    holds_manifest: ClassVar[bool] = True
    guarantee: ClassVar[str] = (
        "exactly once: whole files under the run's own paths, none of a lost attempt, never overwritten"
    )

    path: Path

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        if not path.is_absolute():
            raise ValueError(f"must be an absolute path, not {str(path)!r}")
        return path

    @property
    def place(self) -> str:
        """See `DestinationEntry`."""
        return self.path.as_uri()


@asynccontextmanager
async def _opened(options: FileDestinationConfig, *, context: BuildContext) -> AsyncIterator[Destination]:
    from pipeline_processing.destinations.files.destination import FileDestination

    yield FileDestination(path=options.path)


PLUGIN = Plugin(options=FileDestinationConfig, build=_opened)
