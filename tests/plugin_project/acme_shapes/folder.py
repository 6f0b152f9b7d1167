"""Destination `acme.folder`: this service's own folder destination, by another name."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline_processing.destinations.files.destination import FileDestination
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import Destination, Services


class FolderOptions(BaseModel):
    """Which folder. It has to be there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path


@asynccontextmanager
async def opened(options: FolderOptions, *, context: Services) -> AsyncIterator[Destination]:
    """A destination needs nothing more to be opened."""
    yield FileDestination(path=options.path)


PLUGIN = Plugin(options=FolderOptions, build=opened)
