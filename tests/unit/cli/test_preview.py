"""What `preview` prints of rows."""

import pytest

from pipeline_processing.agency_data_job.preview import Preview
from pipeline_processing.cli.preview import _heading, _print
from pipeline_processing.model import DatasetCounts


def test_numbers_stay_numbers_within_json(capsys: pytest.CaptureFixture[str]) -> None:
    """As they were written, beside text of digits."""
    _print([b'{"id":7,"place":{"zip": 171, "no": "171", "at": [1.50, null, "K\xc3\xb6ln"]}}'], wide=True)

    assert capsys.readouterr().out.splitlines()[1].strip() == '7  {"zip": 171, "no": "171", "at": [1.50, null, "Köln"]}'


@pytest.mark.parametrize(("rows", "heading"), [(1, "records: the first row"), (2, "records: the first 2 rows")])
def test_the_heading_counts_the_rows(rows: int, heading: str) -> None:
    counts = DatasetCounts(name="records", rows_read=rows, rows_written=rows, rows_filtered=0, rows_rejected=0)

    assert _heading(Preview(counts=counts, lines=(b"{}",) * rows, more=True)) == heading
