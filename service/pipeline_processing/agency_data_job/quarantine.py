"""The rejected rows of one dataset, on their way to `_rejected/`."""

from collections.abc import Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from msgspec import Raw

from pipeline_processing.agency_data_job.output import Outlet
from pipeline_processing.errors import RowTooLarge
from pipeline_processing.formats.ndjson import Ndjson
from pipeline_processing.model import Artifact, Compression, FormatName
from pipeline_processing.ports import Content, Row, Upload
from pipeline_processing.steps.rejections import Rejected
from pipeline_processing.telemetry.masking import Mask

REJECTED = "_rejected"


class Quarantine:
    """
    Writes one NDJSON object per rejected row: its `row_number`, the `step`, the `reason` (masked), and the `row` as it
    was read.

    There is an artifact only if there is a row. It goes to the primary destination. Leaving the block with an
    exception, or without `seal()`, aborts it.
    """

    def __init__(self, dataset: str, outlet: Outlet, *, mask: Mask) -> None:
        self.bytes_written = 0
        self._dataset = dataset
        self._outlet = outlet
        self._mask = mask
        self._key = f"{outlet.prefix}/{REJECTED}/{dataset}/part-00000.{FormatName.NDJSON}"
        self._stack = AsyncExitStack()
        self._upload: Upload | None = None
        self._lines = Ndjson(exact=True)
        self._rows = Ndjson(exact=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def write(self, rejected: Iterable[tuple[Rejected, Row]]) -> None:
        """Rows with what the steps said of them. Raises RowTooLarge."""
        lines = [self._line(fault, row) for fault, row in rejected]
        if not lines:
            return
        data = self._lines.encode(lines)
        limit = self._outlet.max_row_bytes
        if len(data) > limit and (longest := self._lines.longest_row(data)) > limit:
            raise RowTooLarge(dataset=self._dataset, size=longest, limit=limit)
        self.bytes_written += len(data)
        upload = self._upload or await self._opened()
        await upload.write(data)

    async def seal(self) -> Artifact | None:
        """Store what is left; None if no row was rejected."""
        if self._upload is None:
            return None
        sealed = await self._upload.seal()
        artifact = Artifact(
            key=self._key,
            dataset=self._dataset,
            format=FormatName.NDJSON,
            compression=Compression.NONE,
            rows=self._lines.rows,
            size=sealed.size,
            sha256=sealed.sha256,
            staged=sealed.staged,
            destination=self._outlet.destinations.primary.url,
            rejected=True,
        )
        self._outlet.room.take(artifact)
        return artifact

    def _line(self, rejected: Rejected, row: Row) -> dict[str, Any]:
        return {
            "row_number": rejected.number,
            "step": rejected.step,
            "reason": self._mask.text(rejected.reason),
            "row": Raw(self._rows.encode([row]).rstrip(b"\n")),
        }

    async def _opened(self) -> Upload:
        content = Content(dataset=self._dataset, inline=self._outlet.room.left)
        primary = self._outlet.destinations.primary
        self._upload = await self._stack.enter_async_context(self._outlet.open(primary, self._key, content))
        return self._upload
