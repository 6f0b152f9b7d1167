"""The plan of a run: its stored artifacts, and the data needed to complete and publish them."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline_processing.model import Compression, Count, FormatName, Message, Sha256


class UploadedPart(Message):
    """One part of a multipart upload. Checksums are base64; `sha256` is None if only the CRC32 was sent to S3."""

    number: int
    etag: str
    crc32: str
    sha256: str | None = None


class MultipartUpload(Message):
    """Bytes in an incomplete multipart upload. `crc32` is of all bytes, if S3 is to check it at completion; base64."""

    kind: Literal["multipart"] = "multipart"
    upload_id: str
    parts: tuple[UploadedPart, ...]
    crc32: str | None = None


class InlineContent(Message):
    """Bytes stored in the plan itself, base64."""

    kind: Literal["inline"] = "inline"
    content: str


class StagedFile(Message):
    """Bytes in a temporary file at the destination. `path` is relative to the destination."""

    kind: Literal["file"] = "file"
    path: str


class StagedTable(Message):
    """Rows in a staging table. `table` is its unquoted name in the target's schema, `target` the target's."""

    kind: Literal["table"] = "table"
    table: str
    target: str = ""


Staged = Annotated[MultipartUpload | InlineContent | StagedFile | StagedTable, Field(discriminator="kind")]


class Artifact(Message):
    """One object whose bytes are all stored. It is invisible until it is completed."""

    key: str = Field(description="Relative to the destination, e.g. `agency_id=7/run_id=r/records/part-00000.csv`.")
    dataset: str
    format: FormatName
    compression: Compression
    rows: Count
    size: Count
    sha256: Sha256
    staged: Staged
    destination: str = Field("", description="URL of the destination that has it; the plan's own if empty.")
    rejected: bool = Field(False, description="Whether it holds rejected rows.")

    @property
    def handle(self) -> str | None:
        """The destination's handle of the upload; None if the bytes are in the plan."""
        match self.staged:
            case MultipartUpload():
                return self.staged.upload_id
            case StagedFile():
                return self.staged.path
            case StagedTable():
                return self.staged.table
        return None


class Pointer(Message):
    """An object that is replaced unless it points to a newer manifest already."""

    key: str
    body: str = Field(description="Its exact bytes, as text; see `runs/manifest.py`.")


class Plan(Message):
    """
    The decision of a run: everything needed to complete and publish it, with the manifest's exact bytes.

    Artifacts are in the order of completion: uploads, which can be lost, then inline content, then tables.
    """

    destination: str = Field(description="URL of the destination that holds the manifest.")
    artifacts: tuple[Artifact, ...]
    metadata: dict[str, str] = Field(description="Metadata of every object; see `RunContext.metadata`.")
    manifest_key: str
    manifest: str = Field(description="The manifest's exact bytes, as text.")
    latest: tuple[Pointer, ...] = Field((), description="What points to the manifest once it is published.")

    @property
    def uploads(self) -> list[tuple[str, str]]:
        """Key and handle of each upload in the plan."""
        return [(artifact.key, artifact.handle) for artifact in self.artifacts if artifact.handle is not None]


class UploadRef(Message):
    """An upload that was started and may have to be aborted. `upload_id` is the destination's handle."""

    key: str
    upload_id: str
    destination: str = Field("", description="URL of the destination that has it, once that is recorded.")
