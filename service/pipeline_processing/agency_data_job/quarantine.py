"""Writes the rejected rows of one dataset to `_rejected/`."""

from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Any, Self

from msgspec import Raw

from pipeline_processing.agency_data_job.outlet import Outlet
from pipeline_processing.agency_data_job.rejections import Rejected
from pipeline_processing.formats.ndjson import Ndjson
from pipeline_processing.model import FormatName
from pipeline_processing.plan import Artifact
from pipeline_processing.ports import Content, Row, Upload

REJECTED = "_rejected"


class Quarantine:
    """
    Writes one NDJSON object per rejected row: its `row_number`, the `step`, the `reason` (masked), and the `row` as it
    was read.

    The artifact goes to the primary destination; without rejected rows there is none. Leaving the block with an
    exception, or without `seal()`, aborts the upload.
    """

    def __init__(self, dataset: str, outlet: Outlet) -> None:
        self.bytes_written = 0
        self._dataset = dataset
        self._outlet = outlet
        self._key = f"{outlet.prefix}/{REJECTED}/{dataset}/part-00000.{FormatName.NDJSON}"
        self._content = Content(dataset=dataset)
        self._stack = AsyncExitStack()
        self._upload: Upload | None = None
        self._ndjson = Ndjson(exact=True)
        self._rows = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.__aexit__(*error)

    async def write(self, rejected: Iterable[tuple[Rejected, Row]]) -> None:
        """Write rows, each with the step's reason for rejecting it. Raises RowTooLarge."""
        lines = [self._line(fault, row) for fault, row in rejected]
        if not lines:
            return
        data = self._ndjson.encode(lines)
        self._outlet.check_rows(self._dataset, self._ndjson, data)
        upload = self._upload or await self._opened()
        await self._outlet.write(upload, data)
        self._rows += len(lines)
        self.bytes_written += len(data)

    async def seal(self) -> Artifact | None:
        """Finish the upload and return its artifact; None if no row was rejected."""
        if self._upload is None:
            return None
        sealed = await self._upload.seal()
        primary = self._outlet.destinations.primary
        return self._outlet.artifact(primary, self._key, self._content, sealed, rows=self._rows, rejected=True)

    def _line(self, rejected: Rejected, row: Row) -> dict[str, Any]:
        return {
            "row_number": rejected.number,
            "step": rejected.step,
            "reason": self._outlet.mask.text(rejected.reason),
            "row": Raw(self._ndjson.encode([row]).rstrip(b"\n")),
        }

    async def _opened(self) -> Upload:
        content = Content(dataset=self._dataset, inline=self._outlet.has_inline_room)
        primary = self._outlet.destinations.primary
        self._upload = await self._stack.enter_async_context(self._outlet.open(primary, self._key, content))
        return self._upload
