"""Parameters and cursors, whatever comes."""

from __future__ import annotations

import base64
from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.board.models import Fault
from pipeline_processing.board.parameters import (
    DeadLettersQuery,
    DurationsQuery,
    FailuresQuery,
    InvalidParameters,
    Parameters,
    RunsQuery,
    ThroughputQuery,
    cursor_of,
)
from pipeline_processing.runs.run_filter import RunPlace

NAMES = st.sampled_from([*RunsQuery.model_fields, "window", "other"])
RUN_IDS = st.from_regex(r"[A-Za-z0-9._-]{1,128}", fullmatch=True)
PLACES = st.builds(RunPlace, st.datetimes(timezones=st.just(UTC)), RUN_IDS)


@given(PLACES)
def test_a_cursor_leads_back_to_its_place(place: RunPlace) -> None:
    query = RunsQuery.of(QueryParams({"cursor": cursor_of(place)}))
    assert query.cursor == place
    assert [wanted.after for wanted in query.filters()] == [place]


@given(
    st.sampled_from(["0001-01-01T00:00:00+14:00 x", "9999-12-31T23:59:59-14:00 x", "2026-01-18T12:00:00 x", "0 x"])
    | st.text(max_size=40)
)
def test_a_forged_cursor_is_used_or_refused(text: str) -> None:
    forged = base64.urlsafe_b64encode(text.encode()).decode()
    for fault in faults(RunsQuery, [("cursor", forged)]):
        assert fault.message.startswith("isn't a cursor")


def faults(parameters: type[Parameters], given: list[tuple[str, str]]) -> list[Fault]:
    try:
        parameters.of(QueryParams(given))
    except InvalidParameters as error:
        return error.faults
    return []


@given(st.lists(st.tuples(NAMES, st.text(max_size=30)), max_size=4))
def test_any_query_is_used_or_refused(given: list[tuple[str, str]]) -> None:
    """No text raises anything else, and every fault has a message."""
    for parameters in (RunsQuery, DurationsQuery, FailuresQuery, ThroughputQuery, DeadLettersQuery):
        assert all(fault.message for fault in faults(parameters, given))


@given(st.integers(min_value=1, max_value=2**63 - 1))
def test_a_number_is_searched_in_both_ways(number: int) -> None:
    by_text, by_agency = RunsQuery.of(QueryParams({"q": str(number)})).filters()
    assert (by_text.text, by_text.agency_id) == (str(number), None)
    assert (by_agency.text, by_agency.agency_id) == (None, number)


def test_agencies_may_be_texts() -> None:
    """As the job config says. Any text may then be part of a run id, or an agency."""
    query = QueryParams({"q": "acme/eu"})
    by_text, by_agency = RunsQuery.of(query, AgencyKey.TEXT).filters(AgencyKey.TEXT)
    assert (by_text.text, by_agency.agency_id) == ("acme/eu", "acme/eu")
    assert DurationsQuery.of(QueryParams({"agency_id": "a%2Cb,c"}), AgencyKey.TEXT).agency_id == ["a,b", "c"]
    with pytest.raises(InvalidParameters, match="must be a UUID"):
        RunsQuery.of(QueryParams({"agency_id": "acme"}), AgencyKey.UUID)
