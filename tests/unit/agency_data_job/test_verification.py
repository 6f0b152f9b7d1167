"""What must hold of a dataset before its artifact may be published."""

import pytest

from pipeline_processing.agency_data_job.config import Expect
from pipeline_processing.agency_data_job.verification import verify
from pipeline_processing.errors import ExpectationFailed, RowsUnaccounted
from pipeline_processing.model import DatasetCounts


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
