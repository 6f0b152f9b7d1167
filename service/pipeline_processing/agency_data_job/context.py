"""The attempt that the data path works for."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pipeline_processing.agency_data_job.config import DatasetConfig
from pipeline_processing.model import JobRequest
from pipeline_processing.ports import LastSuccess


@dataclass(frozen=True, slots=True)
class RunContext:
    """One attempt of a run."""

    run_id: str
    attempt: int
    trace_id: str
    request: JobRequest
    config_id: str | None = None
    """The job config that it uses."""

    @property
    def prefix(self) -> str:
        """Where the run's objects stand below the destination."""
        return f"agency_id={self.request.agency_id}/run_id={self.run_id}"

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of every object."""
        return {
            "run-id": self.run_id,
            "agency-id": str(self.request.agency_id),
            "attempt": str(self.attempt),
            "trace-id": self.trace_id,
        }

    def arguments(self, dataset: DatasetConfig, last: LastSuccess | None) -> Mapping[str, Any]:
        """
        What a dataset's source and steps may name. The built-in names win over params.

        `last` is the dataset's last successful export, for `since: last_success`.
        """
        request = self.request
        built_in = {
            "agency_id": request.agency_id,
            "run_id": self.run_id,
            "since": request.since or _since(dataset, last),
            "until": request.until,
        }
        return {**request.params, **built_in}


def _since(dataset: DatasetConfig, last: LastSuccess | None) -> datetime | None:
    if dataset.since is None or last is None:
        return None
    try:
        return last.covered_until - (dataset.overlap or timedelta())
    except OverflowError:  # before the year 1: that is everything
        return None
