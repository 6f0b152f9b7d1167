"""Records are found in an answer whatever it looks like, and what isn't an answer is told."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from pipeline_processing.errors import SourceDataInvalid
from pipeline_processing.rows.json_values import dumps, loads
from pipeline_processing.steps.json_records import at, is_object, records_of

documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.decimals(allow_nan=False, allow_infinity=False, places=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abé\n", max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(records=st.lists(documents, max_size=4), indent=st.sampled_from(["", "\n", "\r\n\t", " "]))
def test_records_are_what_was_sent(records, indent):
    """Numbers to the last digit, text of any script; spaces and line ends between tokens are gone."""
    body = f"{indent},{indent}".join(dumps(record) for record in records)
    found = records_of(f"{indent}[{body}{indent}]{indent}".encode(), None)

    assert [loads(bytes(record)) for record in found] == records
    assert not any(b"\n" in bytes(record) or b"\r" in bytes(record) for record in found)


@pytest.mark.parametrize(
    ("body", "path", "found"),
    [
        (b"[]", None, []),
        (b"null", None, []),
        (b"\xef\xbb\xbf[1]", None, [1]),
        (b'{"data": {"items": [1, 2]}}', "data.items", [1, 2]),
        (b'{"data": null, "items": null}', "items", []),
        (b'{"a": [1], "a": [2]}', "a", [2]),
        (b"[1.50, 1e400, 123456789012345678901234567890.5]", None, [Decimal("1.50"), Decimal("1e400"), None]),
    ],
)
def test_where_the_list_stands(body, path, found):
    """The answer itself, or below some keys; null is what some servers send for an empty list."""
    records = [loads(bytes(record)) for record in records_of(body, path)]

    assert records == [Decimal("123456789012345678901234567890.5") if each is None else each for each in found]


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        (b"", None, "isn't JSON"),
        (b"<html>secret</html>", None, "isn't JSON"),
        (b"[1", None, "isn't JSON"),
        (b"[1] [2]", None, "isn't JSON"),
        (b"[NaN]", None, "isn't JSON"),
        (b'["\xff"]', None, "isn't JSON in UTF-8"),
        (b'["\\ud800"]', None, "isn't JSON"),
        (b"[" * 100_000, None, "isn't JSON"),
        (b'{"secret": 1}', None, "but it isn't a list"),
        (b'"secret"', None, "but it isn't a list"),
        (b"[]", "items", "'items' in it isn't a list"),
        (b'{"items": {"secret": 1}}', "items", "'items' in it isn't a list"),
        (b'{"item": []}', "items", "'items' in it isn't a list"),
        (b'{"data": []}', "data.items", "'data.items' in it isn't a list"),
    ],
)
def test_what_is_no_list_of_records(body, path, message):
    """The message says what was expected and where, and nothing of what came."""
    with pytest.raises(SourceDataInvalid, match=message) as failed:
        records_of(body, path)
    assert "secret" not in str(failed.value)


@given(names=st.lists(st.text("abc", min_size=1, max_size=2), min_size=1, max_size=3), value=documents)
def test_paths(names, value):
    """Each name is one object deeper; where nothing stands there is nothing."""
    document = value
    for name in reversed(names):
        document = {name: document, "other": [document]}
    raw = Raw(dumps(document).encode())

    found = at(raw, ".".join(names))
    assert found is not None
    assert loads(bytes(found)) == value
    assert at(raw, ".".join([*names[:-1], "missing"])) is None
    assert at(Raw(b"5"), "a") is None
    assert at(raw, None) is raw


def test_only_objects_have_fields():
    """Of other records the step says that they are none."""
    assert [
        is_object(record) for record in records_of(json.dumps([{}, {"a": 1}, [], 5, "{", None]).encode(), None)
    ] == [
        True,
        True,
        *[False] * 4,
    ]
