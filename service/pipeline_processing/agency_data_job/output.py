"""Writes one dataset: encodes and compresses its rows once, and uploads them to every destination."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from pipeline_processing.agency_data_job.config import DatasetConfig
from pipeline_processing.agency_data_job.object_keys import Folders, check_lengths
from pipeline_processing.agency_data_job.outlet import Outlet
from pipeline_processing.agency_data_job.quarantine import Quarantine
from pipeline_processing.agency_data_job.rejections import Rejected
from pipeline_processing.agency_data_job.sizing import parts
from pipeline_processing.agency_data_job.tally import Tally
from pipeline_processing.errors import ArtifactTooLarge, DataError
from pipeline_processing.log import get_logger
from pipeline_processing.model import Compression, FormatName
from pipeline_processing.plan import Artifact
from pipeline_processing.ports import Content, Destination, Format, Packer, Row, Rows, Upload
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Columns
from pipeline_processing.rows.lines import Lines
from pipeline_processing.steps.step import Batch

log = get_logger(__name__)

MAX_ARTIFACTS = 10_000
"""Per dataset. The plan and the manifest list all artifacts, and are held in memory."""
_MIB = 1024 * 1024


@dataclass(slots=True)
class _Part:
    """The artifact being written, at each destination that stores objects."""

    key: str
    folder: str
    content: Content
    packer: Packer
    uploads: Sequence[tuple[Destination, Upload]]
    rows: int = 0
    size: int = 0
    """Bytes handed to the uploads so far."""


class DatasetOutput:
    """
    Writes one dataset. Leaving the block with an exception, or without `seal()`, aborts all of its uploads.

    Starts a new artifact before one exceeds `max_artifact_rows` or `max_artifact_mib`; a single batch larger than
    `max_artifact_mib` isn't split. Also starts one when rows go to another folder, so that only one is written at a
    time. Tables get the whole dataset as one uncompressed artifact.
    """

    def __init__(
        self,
        dataset: DatasetConfig,
        outlet: Outlet,
        rows_format: Format,
        *,
        columns: tuple[str, ...] | None,
        snapshot_at: datetime,
        tally: Tally,
        known: Columns = UNKNOWN_COLUMNS,
    ) -> None:
        """
        `columns` are the column names; None if they depend on the rows. `known` are the columns as far as they are
        known. `snapshot_at` is when the rows were read.
        """
        self._dataset = dataset
        self._outlet = outlet
        self._format = rows_format
        self._columns = columns
        self._snapshot_at = snapshot_at
        self._tally = tally
        self._stack = AsyncExitStack()
        self._quarantine = Quarantine(dataset.name, outlet)
        self._table_key = f"{outlet.prefix}/{dataset.name}"
        self._table_content = self._content(Compression.NONE)
        self._tables: Sequence[tuple[Destination, Upload]] = ()
        self._folders = Folders(
            dataset.object_key or f"{outlet.prefix}/{dataset.name}",
            dataset=dataset.name,
            agency_id=outlet.run.request.agency_id,
            run_id=outlet.run.run_id,
            snapshot_at=snapshot_at,
            columns=known,
        )
        self._part: _Part | None = None
        self._sealed: list[Artifact] = []
        self._is_sealed = False
        self._parts = Counter[str]()
        """The number of artifacts begun, by folder."""
        self._begun = 0
        self._is_unsorted = False

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._stack = stack
            await stack.enter_async_context(self._quarantine)
            self._tables = await self._opened(self._outlet.destinations.tables, self._table_key, self._table_content)
            if self._folders.only is not None and self._outlet.destinations.objects:
                await self._next_part(self._folders.only)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None and not self._is_sealed:  # the error aborts the parts that are sealed already
            kind, error = AssertionError, AssertionError("left without seal()")
        await self._stack.__aexit__(kind, error, trace)

    @property
    def bytes_written(self) -> int:
        """Bytes of all artifacts so far, each counted once, regardless of the number of destinations."""
        return self._tally.uploaded + self._quarantine.bytes_written

    async def write(self, batch: Batch) -> None:
        """Write rows: dicts, rows of the format's `row_maker`, or lines. Raises RowTooLarge and ArtifactTooLarge."""
        for rows in parts(batch.rows, batch.size):
            current = self._part.folder if self._part else None
            for folder, group in self._folders.divide(rows, first=current):
                for piece in self._pieces(group, folder):
                    await self._write(piece, folder)

    async def set_aside(self, rejected: Iterable[tuple[Rejected, Row]]) -> None:
        """Write rejected rows to the quarantine. Raises RowTooLarge."""
        with self._tally.timed("upload"):
            await self._quarantine.write(rejected)

    async def seal(self) -> tuple[Artifact, ...]:
        """Finish all uploads. Return the dataset's artifacts, that of its rejected rows last."""
        await self._seal_part()
        self._is_sealed = True
        if self._tally.written == 0:
            await self._load(self._format.head())
        with self._tally.timed("upload"):
            for destination, upload in self._tables:
                self._sealed.append(
                    self._outlet.artifact(
                        destination,
                        self._table_key,
                        self._table_content,
                        await upload.seal(),
                        rows=self._tally.written,
                    )
                )
            rejected = await self._quarantine.seal()
        return (*self._sealed, rejected) if rejected else tuple(self._sealed)

    # -- artifacts, one after the other ----------------------------------------------------------

    def _pieces(self, rows: Rows | Lines, folder: str) -> Iterator[Rows | Lines]:
        """Split the rows of a folder where an artifact reaches `max_artifact_rows`."""
        limit = self._dataset.max_artifact_rows
        while limit is not None and rows:
            filled = self._part.rows if self._part and self._part.folder == folder else 0
            room = limit - filled or limit
            yield rows[:room]
            rows = rows[room:]
        if rows:
            yield rows

    async def _write(self, rows: Rows | Lines, folder: str) -> None:
        is_first = self._tally.written == 0
        with self._tally.timed("format"):
            data = bytes(rows) if isinstance(rows, Lines) else self._format.encode(rows)
            self._outlet.check_rows(self._dataset.name, self._format, data)
        self._tally.written += len(rows)
        self._tally.encoded += len(data)
        if self._outlet.destinations.objects:
            if self._part is None or self._part.folder != folder or self._is_full(self._part, len(rows), len(data)):
                await self._next_part(folder)
            assert self._part is not None
            await self._append(self._part, data, rows=len(rows))
        if self._tables:
            await self._load(self._format.head() + data if is_first else data)

    async def _load(self, data: bytes) -> None:
        """Hand data to the tables. Without objects, its bytes are those of the dataset."""
        if not self._outlet.destinations.objects:
            self._tally.uploaded += len(data)
        with self._tally.timed("upload"):
            for _, upload in self._tables:
                await self._outlet.write(upload, data)

    def _is_full(self, part: _Part, rows: int, size: int) -> bool:
        most_rows, most_mib = self._dataset.max_artifact_rows, self._dataset.max_artifact_mib
        if part.rows == 0:
            return False
        if most_rows is not None and part.rows + rows > most_rows:
            return True
        return most_mib is not None and part.size + part.packer.held + size > most_mib * _MIB

    async def _next_part(self, folder: str) -> None:
        if self._part is not None and self._part.folder != folder and self._parts[folder] and not self._is_unsorted:
            self._is_unsorted = True
            log.warning("rows aren't sorted by object_key: they become more artifacts", dataset=self._dataset.name)
        await self._seal_part()
        dataset = self._dataset
        if self._begun == MAX_ARTIFACTS:
            order = "" if self._folders.only else ", and sort the rows by the columns of `object_key`"
            raise ArtifactTooLarge(
                f"Dataset {dataset.name!r} would become more than {MAX_ARTIFACTS:,} artifacts. Raise "
                f"`max_artifact_rows` or `max_artifact_mib`{order}."
            )
        # Readers of Parquet know themselves how it is compressed.
        outer = Compression.NONE if dataset.format is FormatName.PARQUET else dataset.compression
        suffix = f"{dataset.format}{outer.suffix}"
        key = f"{folder}/part-{self._parts[folder]:05}.{suffix}"
        if dataset.object_key is not None:
            check_lengths(key, urls=[each.url for each in self._outlet.destinations.objects])
            if key in self._outlet.keys:
                raise DataError(
                    f"Two datasets write the object {key!r}. Use {{dataset}} in `object_key`, so that each has its own."
                )
        self._outlet.keys.add(key)
        content = self._content(outer)
        uploads = await self._opened(self._outlet.destinations.objects, key, content)
        # A row group takes up to three times its size while it is written, as a large row takes seven times its own.
        packer = self._format.packer(dataset.compression, most_held=self._outlet.max_row_bytes // 2)
        self._part = _Part(key, folder, content, packer, uploads)
        self._parts[folder] += 1
        self._begun += 1

    async def _append(self, part: _Part, data: bytes, *, rows: int) -> None:
        with self._tally.timed("format"):
            if part.rows == 0:
                data = self._format.head() + data
            part.rows += rows
            compressed = part.packer.compress(data)
        await self._upload(part, compressed)

    async def _upload(self, part: _Part, data: bytes) -> None:
        if not data:
            return
        part.size += len(data)
        self._tally.uploaded += len(data)
        with self._tally.timed("upload"):
            for _, upload in part.uploads:
                await self._outlet.write(upload, data)

    async def _seal_part(self) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        if part.rows == 0:
            await self._append(part, b"", rows=0)
        with self._tally.timed("format"):
            rest = part.packer.flush()
        await self._upload(part, rest)
        for destination, upload in part.uploads:
            with self._tally.timed("upload"):
                sealed = await upload.seal()
            self._sealed.append(self._outlet.artifact(destination, part.key, part.content, sealed, rows=part.rows))

    def _content(self, compression: Compression) -> Content:
        return Content(
            dataset=self._dataset.name,
            format=self._dataset.format,
            compression=compression,
            columns=self._columns,
            snapshot_at=self._snapshot_at,
            csv=self._dataset.csv,
            # The content type of what is inline follows from its key alone.
            inline=self._outlet.has_inline_room and self._dataset.csv.encoding == "utf-8",
        )

    async def _opened(
        self, destinations: Sequence[Destination], key: str, content: Content
    ) -> Sequence[tuple[Destination, Upload]]:
        return [
            (each, await self._stack.enter_async_context(self._outlet.open(each, key, content)))
            for each in destinations
        ]
