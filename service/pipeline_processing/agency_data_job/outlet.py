"""Opens the uploads of one attempt, and describes their artifacts for the plan."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.errors import RowTooLarge
from pipeline_processing.plan import Artifact, InlineContent, UploadRef
from pipeline_processing.ports import Content, Destination, Format, Sealed, Upload, UploadStarted
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.usage import current_usage

_MAX_INLINE = 4 * 1024 * 1024


@dataclass(slots=True, kw_only=True)
class Outlet:
    """The destinations of one attempt, shared by all of its datasets."""

    run: RunContext
    destinations: Destinations
    on_upload: UploadStarted
    """Awaited before an upload's first byte is sent; the upload names its destination."""
    mask: Mask
    max_row_bytes: int
    """The longest encoded row that fits into the worker's memory."""
    inline_bytes: int = 0
    """Total size of the artifacts stored in the plan itself. From 4 MiB on, further ones become uploads."""
    keys: set[str] = field(default_factory=set)
    """Of all artifacts so far, without those of rejected rows."""

    @property
    def prefix(self) -> str:
        """The run's folder below each destination."""
        return self.run.prefix

    @property
    def has_inline_room(self) -> bool:
        """Whether another artifact may be stored in the plan."""
        return self.inline_bytes < _MAX_INLINE

    def open(self, destination: Destination, key: str, content: Content) -> AbstractAsyncContextManager[Upload]:
        """Start one artifact at one destination."""

        async def on_started(upload: UploadRef) -> None:
            await self.on_upload(upload.model_copy(update={"destination": destination.url}))

        return destination.open(key, content, metadata=self.run.metadata, on_started=on_started)

    async def write(self, upload: Upload, data: bytes) -> None:
        """Hand data to an upload. A dry run's are stored nowhere."""
        if not self.run.request.dry_run:
            current_usage().bytes_written += len(data)
        await upload.write(data)

    def artifact(
        self, destination: Destination, key: str, content: Content, sealed: Sealed, *, rows: int, rejected: bool = False
    ) -> Artifact:
        """Describe a sealed upload for the plan."""
        if isinstance(sealed.staged, InlineContent):
            self.inline_bytes += sealed.size
        return Artifact(
            key=key,
            dataset=content.dataset,
            format=content.format,
            compression=content.compression,
            rows=rows,
            size=sealed.size,
            sha256=sealed.sha256,
            staged=sealed.staged,
            destination=destination.url,
            rejected=rejected,
        )

    def check_rows(self, dataset: str, rows_format: Format, encoded: bytes) -> None:
        """Raises RowTooLarge if one of the encoded rows takes more memory than one of `max_row_bytes` in NDJSON."""
        limit = self.max_row_bytes // rows_format.weight
        if len(encoded) > limit and (longest := rows_format.longest_row(encoded)) > limit:
            raise RowTooLarge(dataset=dataset, size=longest, limit=limit)
