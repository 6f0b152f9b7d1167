"""The manifest of a run, as it is published."""

from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError

from pipeline_processing.agency_keys import AgencyId
from pipeline_processing.labels import Labels
from pipeline_processing.model import (
    Bill,
    Compression,
    ConfigId,
    Count,
    DatasetCounts,
    DatasetSchema,
    FormatName,
    Message,
    RunId,
    Sha256,
    TraceId,
)
from pipeline_processing.runs.completions import since_0_2


class ContentMeta(Message):
    content_length: Count


class ManifestEntry(Message):
    """One published artifact. Redshift's COPY reads `url`, `mandatory` and `meta`."""

    url: str
    mandatory: bool = True
    dataset: str
    format: FormatName
    compression: Compression
    rows: Count
    meta: ContentMeta
    sha256: Sha256


class RejectedEntry(Message):
    """One artifact of rejected rows: always NDJSON, not compressed."""

    url: str
    dataset: str
    rows: Count
    meta: ContentMeta
    sha256: Sha256


class ManifestDataset(DatasetCounts):
    """Rows and columns of one dataset."""

    # Not called `schema`, which is a method of every pydantic model.
    columns_written: DatasetSchema | None = Field(
        None,
        alias="schema",
        description="The columns of its rows; null if they depend on the rows.",
        json_schema_extra={"x-since": "0.2"},
    )


class Manifest(Message):
    """The list of a run's artifacts and counts, published last."""

    version: Literal[1] = 1
    job: str
    agency_id: AgencyId
    run_id: RunId
    attempt: int
    trace_id: TraceId
    config_id: ConfigId | None = since_0_2("Identity of the job config that the run was exported with.")
    labels: Labels = since_0_2("The request's labels.", default_factory=dict)
    requested_by: str | None = since_0_2("Who asked for the run, as the request says.")
    snapshot_at: AwareDatetime
    created_at: AwareDatetime
    rows_read: Count
    rows_written: Count
    rows_filtered: Count
    rows_rejected: Count
    bill: Bill | None = since_0_2(
        "What the run has used. The same in history, manifest and event; null if it isn't known."
    )
    datasets: tuple[ManifestDataset, ...]
    entries: tuple[ManifestEntry, ...]
    rejected: tuple[RejectedEntry, ...] = ()


class Latest(Message):
    """The content of `_latest.json`: where the newest manifest with a dataset of an agency is."""

    version: Literal[1] = 1
    job: str
    agency_id: AgencyId
    dataset: str
    run_id: RunId
    manifest: str
    """Its URL."""
    snapshot_at: AwareDatetime
    rows_written: Count
    fingerprint: str | None
    """That of the dataset's schema, if it is known."""

    def replaces(self, there: bytes) -> bool:
        """
        Whether this is newer than another content. Snapshots are compared, not times of publication: a run that was
        decided long ago may be published late.
        """
        try:
            other = Latest.model_validate_json(there, extra="ignore")
        except ValidationError:  # not ours, and no reason to keep a decided run from being published
            return True
        return (other.snapshot_at, other.run_id) < (self.snapshot_at, self.run_id)
