"""Values that remember how they were carried, as long as nobody changes them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from pipeline_processing.rows.untouched import carried_form, remembering


@pytest.mark.parametrize("length", [1, 10_000], ids=["short", "long"])
def test_a_document_is_carried_until_it_changes(length: int) -> None:
    """Also deep inside, and where only a type changes; of a long one no text is kept to tell."""
    document = remembering({"items": [{"n": 1, "\ud800": "x" * length}]}, "as it came")

    assert carried_form(document) == "as it came"
    assert len(document.as_read) < 1024
    document["items"][0]["n"] = 1.0
    assert carried_form(document) is None
    document["items"][0]["n"] = 1
    assert carried_form(document) == "as it came"


@pytest.mark.parametrize(
    ("before", "after"),
    [(1, 1.0), (1, True), (None, float("nan")), ("1.5", Decimal("1.5")), ([], {}), ("\ud800", "?"), (0, -0.0)],
)
def test_every_change_is_seen(before: object, after: object) -> None:
    """Also one that some encoders can't tell."""
    document = remembering([before], "as it came")
    assert carried_form(document) == "as it came"

    document[0] = after

    assert carried_form(document) is None
