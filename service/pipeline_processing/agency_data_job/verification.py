"""What must hold of a dataset before its artifact may be published."""

from pipeline_processing.agency_data_job.config import Expect
from pipeline_processing.errors import ExpectationFailed, RowsUnaccounted
from pipeline_processing.model import DatasetCounts


def verify(counts: DatasetCounts, expect: Expect) -> None:
    """
    Every row read was written, filtered or rejected, each counted where it happened; and `expect` is met.

    Raises RowsUnaccounted or ExpectationFailed.
    """
    if not counts.accounted_for:
        raise RowsUnaccounted(
            counts.name,
            read=counts.rows_read,
            written=counts.rows_written,
            filtered=counts.rows_filtered,
            rejected=counts.rows_rejected,
        )
    if expect.min_rows is not None and counts.rows_written < expect.min_rows:
        raise _unmet(counts, f"at least {expect.min_rows:,}", "min_rows")
    if expect.max_rows is not None and counts.rows_written > expect.max_rows:
        raise _unmet(counts, f"at most {expect.max_rows:,}", "max_rows")


def _unmet(counts: DatasetCounts, wanted: str, check: str) -> ExpectationFailed:
    return ExpectationFailed(
        f"Dataset {counts.name!r} has {counts.rows_written:,} rows to write, but {wanted} are expected "
        f"({counts.rows_read:,} read, {counts.rows_filtered:,} filtered). Nothing was published. Check the agency's "
        f"data, or correct `expect.{check}` in the job config."
    )
