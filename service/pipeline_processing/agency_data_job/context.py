"""The attempt of a run, as the data path sees it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from pipeline_processing.agency_data_job.config import BEGINNING, DatasetConfig
from pipeline_processing.agency_keys import encoded_key
from pipeline_processing.labels import encoded_labels
from pipeline_processing.model import JobRequest
from pipeline_processing.ports import LastSuccess

END = "infinity"
"""Later than any time, as Postgres writes it."""
MAX_REQUESTER_BYTES = 90
"""What S3's 2 KB of metadata leave for the requester beside the longest labels and names of a run."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """One attempt of a run."""

    run_id: str
    attempt: int
    trace_id: str
    request: JobRequest
    config_id: str | None = None
    """Identifies the job config that it uses."""

    @property
    def prefix(self) -> str:
        """The folder of the run's objects below a destination."""
        return f"{self.agency_folder}/run_id={self.run_id}"

    @property
    def agency_folder(self) -> str:
        """The folder of the agency's runs below a destination."""
        return f"agency_id={encoded_key(self.request.agency_id)}"

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata set on every object of the run. A requester that is too long is left out."""
        labels = self.request.labels
        requester = quote(self.request.requested_by or "", safe="")
        return {
            "run-id": self.run_id,
            "agency-id": encoded_key(self.request.agency_id),
            "attempt": str(self.attempt),
            "trace-id": self.trace_id,
            **({"requested-by": requester} if 0 < len(requester) <= MAX_REQUESTER_BYTES else {}),
            **({"labels": encoded_labels(labels)} if labels else {}),
        }

    def arguments(
        self, dataset: DatasetConfig, last: LastSuccess | None, *, params: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """
        Return the values that a dataset's source and steps may name. Built-in names take precedence over params.

        `last` is the dataset's last successful export, for `since: last_success`. Postgres gets an infinity for a
        missing `since` or `until`, because comparing with null matches no row. Other sources get None.
        """
        request = self.request
        since: datetime | str | None = request.since or _since(dataset, last)
        until: datetime | str | None = request.until
        if dataset.source.has_infinity:
            until = until or END
        elif since == BEGINNING:
            since = None
        return {**params, "agency_id": request.agency_id, "run_id": self.run_id, "since": since, "until": until}


def _since(dataset: DatasetConfig, last: LastSuccess | None) -> datetime | str | None:
    if dataset.since is None or last is None:
        return dataset.initial
    try:
        return last.covered_until - (dataset.overlap or timedelta())
    except OverflowError:  # before the year 1
        return BEGINNING
