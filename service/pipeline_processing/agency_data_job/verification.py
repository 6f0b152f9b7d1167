"""Checks that a dataset must pass before its artifacts are published."""

from collections.abc import Iterator

from pipeline_processing.agency_data_job.config import DatasetConfig, Expect
from pipeline_processing.errors import ExpectationFailed, InvalidStep, RowsUnaccounted
from pipeline_processing.model import DatasetCounts, DatasetSchema
from pipeline_processing.ports import LastSuccess
from pipeline_processing.rows.columns import Columns


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


def schema_of(columns: Columns) -> DatasetSchema | None:
    """Describe the columns of the rows written. None if there may be more than are known."""
    if not columns.complete:
        return None
    return DatasetSchema.of((each.name, each.kind or each.declared) for each in columns)


def verify_schema(schema: DatasetSchema | None, dataset: DatasetConfig, last: LastSuccess | None) -> None:
    """
    Check `expect: {schema: same}`, before any row is read.

    Raises ExpectationFailed, or InvalidStep if the columns depend on the rows.
    """
    if dataset.expect.columns is None:
        return
    if schema is None:
        raise InvalidStep(
            f"Dataset {dataset.name!r}: `expect: {{schema: same}}` needs columns that are known before the rows. Add a "
            "`select` after the last step that may add columns."
        )
    if last is None or last.schema is None or last.schema.fingerprint == schema.fingerprint:
        return
    raise ExpectationFailed(
        f"Dataset {dataset.name!r} has another schema than in run {last.run_id!r}, the last that succeeded: "
        f"{'; '.join(_changes(last.schema, schema))}. Nothing was published. Correct the source, or `select` and "
        "`cast` to the old columns. To publish the new schema, leave out `expect.schema` for one run."
    )


def _changes(before: DatasetSchema, after: DatasetSchema) -> Iterator[str]:
    """Name what differs between two schemas."""
    was, now = ({each.name: each.type for each in schema.columns} for schema in (before, after))
    yield from (f"{name!r} is gone" for name in was if name not in now)
    yield from (f"{name!r} is new" for name in now if name not in was)
    for name in now:
        if name in was and was[name] != now[name]:
            yield f"{name!r} is {now[name] or 'of an unknown type'}, and was {was[name] or 'of an unknown type'}"
    if was == now:
        yield f"the order is {', '.join(now)}, and was {', '.join(was)}"


def _unmet(counts: DatasetCounts, but: str, check: str) -> ExpectationFailed:
    return ExpectationFailed(
        f"Dataset {counts.name!r} has {counts.rows_written:,} rows to write, but {but} "
        f"({counts.rows_read:,} read, {counts.rows_filtered:,} filtered, {counts.rows_rejected:,} rejected). Nothing "
        f"was published. Check the agency's data, or correct `expect.{check}` in the job config."
    )
