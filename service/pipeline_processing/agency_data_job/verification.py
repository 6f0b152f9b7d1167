"""Checks that a dataset must pass before its artifacts are published."""

from pipeline_processing.agency_data_job.config import Expect
from pipeline_processing.errors import ExpectationFailed, RowsUnaccounted
from pipeline_processing.model import DatasetCounts
from pipeline_processing.ports import LastSuccess


def verify(counts: DatasetCounts, expect: Expect, last: LastSuccess | None) -> None:
    """
    Check that every row read was written, filtered or rejected, and that `expect` is met.

    `last` is the dataset's last successful export. Raises RowsUnaccounted or ExpectationFailed.
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
        raise _unmet(counts, f"at least {expect.min_rows:,} are expected", "min_rows")
    if expect.max_rows is not None and counts.rows_written > expect.max_rows:
        raise _unmet(counts, f"at most {expect.max_rows:,} are expected", "max_rows")
    if expect.max_change is not None and last is not None:
        before = last.counts.rows_written  # a change from 0 rows has no percentage
        if before > 0 and abs(counts.rows_written - before) > expect.max_change.of(before):
            run = f"run {last.run_id!r}, the last that succeeded, wrote {before:,}"
            raise _unmet(counts, f"{run}, and a change of {expect.max_change} at most is expected", "max_change")


def _unmet(counts: DatasetCounts, but: str, check: str) -> ExpectationFailed:
    return ExpectationFailed(
        f"Dataset {counts.name!r} has {counts.rows_written:,} rows to write, but {but} "
        f"({counts.rows_read:,} read, {counts.rows_filtered:,} filtered, {counts.rows_rejected:,} rejected). Nothing "
        f"was published. Check the agency's data, or correct `expect.{check}` in the job config."
    )
