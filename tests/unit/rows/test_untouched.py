"""Values that remember how they were carried, as long as nobody changes them."""

from __future__ import annotations

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
