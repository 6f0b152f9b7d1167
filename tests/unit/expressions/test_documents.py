"""Parts of a json are parts of its text. tests/contract/steps holds the arrows against Postgres."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.expressions.documents import document_of, element, member, plain_text
from pipeline_processing.expressions.types import RowFault

_keys = st.sampled_from(["", "a", "b", 'q"', "\\", "é", "{"])
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([1.5, -2e300]) | st.text('ab"\\{}[],:\n é', max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=12,
)
_layout = st.sampled_from([{}, {"indent": 1}, {"separators": (" ,  ", "  :\t")}, {"ensure_ascii": False}])


@given(document=_json, layout=_layout, key=_keys, index=st.integers(-5, 5))
def test_parts_are_found_and_keep_their_text(document: Any, layout: dict[str, Any], key: str, index: int):
    """Whatever stands between, and however it is laid out."""
    text = json.dumps(document, **layout)

    found = member(text, key)
    assert (found is not None) == (isinstance(document, dict) and key in document)
    if found is not None:
        assert json.loads(found) == document[key]
        assert found in text
    if isinstance(document, list):
        part = element(text, index)
        assert (part is not None) == (-len(document) <= index < len(document))
        assert part is None or (json.loads(part) == document[index] and part in text)


@given(document=_json)
def test_text_of_a_document(document: Any):
    """A string without its quotes, null as null, anything else as it is written."""
    text = json.dumps(document)

    assert plain_text(f" {text}\n") == (document if isinstance(document, str | None) else text)


def test_of_repeated_keys_the_last_one_counts():
    """As in Postgres, also for `json`, which keeps them all."""
    assert member('{"a": 1, "\\u0061": 2.0}', "a") == "2.0"


@pytest.mark.parametrize(
    "text", ["", "{", "[1,]", "{'a': 1}", "01", "NaN", "Infinity", "1 2", '"\n"', "\ufeff1", "nul", '{"a" 1}']
)
def test_what_isnt_json(text: str):
    """Nothing is guessed, and Python's own extensions aren't JSON."""
    with pytest.raises(RowFault, match="the text isn't JSON"):
        document_of(text)


@pytest.mark.parametrize("document", ['{"a": "\\u0000"}', '{"\\ud800": 1}', '["\\udc00\\ud800"]'])
def test_strings_that_text_cannot_have(document: str):
    """Postgres takes nothing from such a document either."""
    with pytest.raises(RowFault, match="characters in it that text can't have"):
        member(document, "a")
    with pytest.raises(RowFault, match="characters in it that text can't have"):
        element(document, 0)


def test_escapes_that_only_look_like_it():
    """A backslash before a backslash escapes that one."""
    assert member('{"a": "\\\\u0000 \\\\ud800", "b": "\\ud83e\\udd89"}', "a") == '"\\\\u0000 \\\\ud800"'
    assert plain_text('"\\ud83e\\udd89"') == "🦉"


@pytest.mark.parametrize(("document", "index"), [("5", 0), ('"a"', -1), ("null", 0)])
def test_a_plain_value_has_no_elements_to_json_and_one_to_jsonb(document: str, index: int):
    """Which of the two it is isn't known, so it is no value."""
    with pytest.raises(RowFault, match="neither array nor object"):
        element(document, index)
    assert element(document, 1) is None
