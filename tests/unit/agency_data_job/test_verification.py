"""What must hold of a dataset before its artifact may be published."""

import pytest

from pipeline_processing.agency_data_job import verification
from pipeline_processing.agency_data_job.config import Expect
from pipeline_processing.errors import ExpectationFailed, InvalidStep, RowsUnaccounted
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.model import DatasetCounts, DatasetSchema, RunState
from pipeline_processing.ports import LastSuccess
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Column, Columns, Kind
from tests.unit.in_memory import Service, job
from tests.unit.virtual_clock import EPOCH, in_virtual_time


def verify(counts: DatasetCounts, expect: Expect, last: LastSuccess | None = None) -> None:
    verification.verify(counts, expect, last)


def last_success(written: int) -> LastSuccess:
    """The last successful run of the dataset, which wrote so many rows."""
    return LastSuccess(run_id="r-1", covered_until=EPOCH, counts=counts(written, written))


def counts(read: int, written: int, filtered: int = 0, rejected: int = 0) -> DatasetCounts:
    return DatasetCounts(
        name="records", rows_read=read, rows_written=written, rows_filtered=filtered, rows_rejected=rejected
    )


@pytest.mark.parametrize("expect", [Expect(), Expect(min_rows=5), Expect(max_rows=5), Expect(min_rows=5, max_rows=5)])
def test_what_adds_up_and_is_expected(expect: Expect):
    """Bounds are inclusive."""
    verify(counts(10, 5, 4, 1), expect)


@pytest.mark.parametrize("wrong", [counts(10, 9), counts(10, 11), counts(10, 5, 4), counts(0, 1), counts(10, 10, 0, 1)])
def test_rows_that_are_lost_or_made_up(wrong: DatasetCounts):
    """Every row read was written, filtered or rejected. Else a stage has a bug, and says how many went where."""
    with pytest.raises(
        RowsUnaccounted, match=f"{wrong.rows_read} rows read, but {wrong.rows_written} written"
    ) as raised:
        verify(wrong, Expect())

    assert raised.value.exit_code == 70


@pytest.mark.parametrize(
    ("expect", "message"),
    [(Expect(min_rows=6), r"at least 6.*expect\.min_rows"), (Expect(max_rows=4), r"at most 4.*expect\.max_rows")],
)
def test_unmet_expectations(expect: Expect, message: str):
    """It is what is written that counts; the message tells what was read and filtered too."""
    with pytest.raises(ExpectationFailed, match=message) as raised:
        verify(counts(10, 5, 5), expect)

    assert "10 read, 5 filtered" in str(raised.value)
    assert raised.value.exit_code == 1


def test_lost_rows_come_first():
    """An expectation that isn't met doesn't hide a bug."""
    with pytest.raises(RowsUnaccounted):
        verify(counts(10, 5), Expect(min_rows=6))


def test_no_rows():
    """None at all is fine unless some are expected."""
    verify(counts(0, 0), Expect(max_rows=0))
    with pytest.raises(ExpectationFailed):
        verify(counts(0, 0), Expect(min_rows=1))


# -- compared with the last run ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "before", "written"),
    [
        ("20%", 100, 80),
        ("20%", 100, 120),
        ("20%", 100, 100),
        ("0%", 100, 100),
        ("0.5%", 1000, 1005),
        ("100%", 100, 0),
        ("20%", 0, 0),
    ],
)
def test_as_much_change_as_is_expected(most: str, before: int, written: int):
    """The share is of what was written before, and the bounds are inclusive."""
    verify(counts(written, written), Expect.model_validate({"max_change": most}), last_success(before))


@pytest.mark.parametrize(
    ("most", "before", "written"),
    [("20%", 100, 79), ("20%", 100, 121), ("0%", 100, 101), ("0.5%", 1000, 1006), ("0.5%", 100, 101)],
)
def test_more_change_than_is_expected(most: str, before: int, written: int):
    """In either direction; the message names the run that it is compared with."""
    with pytest.raises(
        ExpectationFailed, match=rf"{written:,} rows.*'r-1'.*wrote {before:,}.*{most} at most.*`expect\.max_change`"
    ):
        verify(counts(written, written), Expect.model_validate({"max_change": most}), last_success(before))


def test_the_first_run_is_compared_with_nothing():
    """There is none before it, whatever it writes."""
    verify(counts(10**6, 10**6), Expect.model_validate({"max_change": "0%"}))


def test_any_number_may_follow_none() -> None:
    """A share of no rows is none: an agency that was empty once could never be exported again."""
    verify(counts(5, 5), Expect.model_validate({"max_change": "10%"}), last_success(0))


# -- the schema ------------------------------------------------------------------------------------

SAME = {"expect": {"schema": "same"}}
ID, NAME = (column_of_kind(name, kind, "json") for name, kind in (("id", Kind.INTEGER), ("name", Kind.TEXT)))


def test_a_schema_names_types():
    """The kind of values, else the source's name of the type, which is None after user code. It is no one's guess."""
    columns = Columns((ID, Column("tags", declared="text[]"), Column("more", typed=False)))
    schema = verification.schema_of(columns)
    assert schema is not None
    assert [(each.name, each.type) for each in schema.columns] == [
        ("id", "integer"),
        ("tags", "text[]"),
        ("more", None),
    ]
    assert schema == DatasetSchema.of([("id", "integer"), ("tags", "text[]"), ("more", None)])
    assert verification.schema_of(UNKNOWN_COLUMNS) is None


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ((NAME, ID), "the order is name, id, and was id, name"),
        ((ID,), "'name' is gone"),
        ((ID, NAME, Column("x")), "'x' is new"),
        ((ID, column_of_kind("name", Kind.DATE, "json")), "'name' is date, and was text"),
        ((ID, Column("name")), "'name' is of an unknown type, and was text"),
    ],
)
def test_another_schema_than_last_time(columns: tuple[Column, ...], expected: str):
    """The message says what is different."""
    dataset = job("records", **SAME).datasets[0]
    last = LastSuccess("r-1", EPOCH, counts(1, 1), verification.schema_of(Columns((ID, NAME))))
    verification.verify_schema(verification.schema_of(Columns((ID, NAME))), dataset, last)
    with pytest.raises(ExpectationFailed, match=f"run 'r-1', the last that succeeded: {expected}. Nothing was publ"):
        verification.verify_schema(verification.schema_of(Columns(columns)), dataset, last)


def test_nothing_to_compare_with():
    """A first run, or one before which no schema was stored, sets the schema."""
    dataset = job("records", **SAME).datasets[0]
    schema = verification.schema_of(Columns((ID,)))
    verification.verify_schema(schema, dataset, None)
    verification.verify_schema(schema, dataset, last_success(3))


def test_columns_that_only_rows_tell():
    """They can't be compared before the rows are read."""
    verification.verify_schema(None, job("records").datasets[0], None)
    with pytest.raises(InvalidStep, match="Add a `select` after the last step"):
        verification.verify_schema(None, job("records", **SAME).datasets[0], None)


@in_virtual_time
async def test_a_run_with_another_schema_publishes_nothing():
    """It fails before it reads a row, and the next one is compared with the last success again."""
    service = Service(config=job("small", **SAME), columns=Columns((ID, NAME)))
    for run_id, columns in (
        ("a", (ID, NAME)),
        ("b", (ID, column_of_kind("name", Kind.UUID, "json"))),
        ("c", (ID, NAME)),
    ):
        service.columns = Columns(columns)
        await service.accept(run_id)
        await service.attempt(service.executor("w"))

    assert [service.record(run_id).run.state for run_id in "abc"] == [
        RunState.SUCCEEDED,
        RunState.FAILED,
        RunState.SUCCEEDED,
    ]
    error = service.record("b").run.error
    assert error is not None
    assert (error.kind, service.record("b").run.rows_read) == ("expectation_failed", 0)
    assert not [key for key in service.visible() if "run_id=b" in key]
