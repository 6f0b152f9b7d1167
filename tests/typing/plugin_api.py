"""
The public API types as docs/extending.md has it. `make types` reads this page; nothing runs it.

`tests/plugin_project` is written as a third party writes a package. Whatever it builds has to fit the port.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import Destination, Services, Source
from pipeline_processing.steps.step import Batch, Step, StepContext
from tests.plugin_project.acme_shapes import countdown, folder, upper


def a_step(options: upper.UpperOptions, context: StepContext) -> Step:
    """The entry point's `build`, called as the service calls it."""
    return upper.Upper(options, context=context)


def a_source(context: Services) -> Source:
    """A source is a class whose instances have `snapshot`."""
    return countdown.Countdown(context=context)


def a_destination(options: folder.FolderOptions, context: Services) -> AbstractAsyncContextManager[Destination]:
    """A destination is opened as a block."""
    return folder.opened(options, context=context)


class Trim(Step):
    """The least that a step has to define."""

    name = "acme.trim"

    def __init__(self, options: Mapping[str, Any], *, context: StepContext) -> None:
        self._column: str = options["column"]
        self.columns = context.columns

    async def __call__(self, batch: Batch) -> Batch:
        for row in batch.rows:
            row[self._column] = row[self._column].strip()
        return batch


PLUGINS = [
    Plugin(options=upper.UpperOptions, build=upper.Upper),
    Plugin(options=countdown.CountdownOptions, build=countdown.Countdown),
    Plugin(options=folder.FolderOptions, build=folder.opened),
    Plugin(options=dict[str, Any], build=Trim),
]
