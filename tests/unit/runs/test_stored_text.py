"""Text that Postgres stores, and text that it doesn't."""

import pytest

from pipeline_processing.errors import InvalidRequest
from pipeline_processing.model import JobRequest
from pipeline_processing.runs.stored_text import storable_request, storable_tracestate


@pytest.mark.parametrize("text", ["", r"\u0000", r"\\u0000", "\\", "é 🙂"])
def test_what_only_looks_like_a_nul_can_be_stored(text: str) -> None:
    """A backslash is a character like any other."""
    request = JobRequest(agency_id=7, params={"p": text}, requested_by=text)

    assert storable_request(request) is request
    assert storable_tracestate(text) == text


@pytest.mark.parametrize("text", ["\0", "\\\0", "\\\\\0", "\ud800"])
def test_a_nul_or_a_lone_surrogate_cannot_be_stored(text: str) -> None:
    """A request with one is refused; a tracestate is dropped."""
    with pytest.raises(InvalidRequest, match="NUL"):
        storable_request(JobRequest(agency_id=7, params={"p": text}))
    assert storable_tracestate(text) is None
