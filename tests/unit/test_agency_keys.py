"""Keys of agencies: what they may be, how they stand in paths, and the numbers that stand for them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipeline_processing.agency_keys import AgencyId, AgencyKey, encoded_key, number_of

KEY: TypeAdapter[int | str] = TypeAdapter(AgencyId)
UUID = "018f4e8a-5b7c-7d3e-9a41-2f60c1d7b3e5"


@pytest.mark.parametrize("key", [1, 2**63 - 1, "1", "007", UUID, "acme/eu", "a b", "日本", "..", "a" * 200])
def test_integers_and_texts_are_keys(key: int | str) -> None:
    """They are kept as they are, also on their way through JSON."""
    assert KEY.validate_python(key, strict=True) == key
    assert KEY.validate_json(KEY.dump_json(key), strict=True) == key


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        2**63,
        True,
        7.0,
        None,
        [],
        "",
        " a",
        "a ",
        "a\n",
        "a\0b",
        "a\x7f",
        "a\x85",
        "a\u2028",
        "a" * 201,
        "é" * 34,
    ],
)
def test_whatever_else_is_none(value: Any) -> None:
    """Texts come from outside: they are bounded, and have no control characters."""
    with pytest.raises(ValidationError):
        KEY.validate_python(value, strict=True)


def test_an_integer_is_refused_in_the_same_words_as_ever() -> None:
    """Nobody who has integers sees that there may be text."""
    with pytest.raises(ValidationError, match="Input should be greater than or equal to 1"):
        KEY.validate_python(0, strict=True)
    with pytest.raises(ValidationError, match="Input should be a valid integer"):
        KEY.validate_python(True, strict=True)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(TEXTS, TEXTS)
def test_different_keys_never_share_a_path(one: str, other: str) -> None:
    """A key is one name of a folder in ASCII, whatever stands in it."""
    assert (encoded_key(one) == encoded_key(other)) == (one == other)
    assert encoded_key(one).isascii()
    assert "/" not in encoded_key(one)


def test_a_number_stands_for_every_key() -> None:
    """An integer for itself, also as text; any other key has a negative one, which stays the same for good."""
    assert (number_of(7), number_of("7"), number_of("9223372036854775807")) == (7, 7, 2**63 - 1)
    others = [number_of(key) for key in ("007", "0", "-7", "٧", "9223372036854775808", "acme", UUID)]
    assert len(set(others)) == len(others)
    assert all(-(2**63) <= number < 0 for number in others)
    assert number_of("acme") == -4689823734664569937


@pytest.mark.parametrize(
    ("kind", "key", "fault"),
    [
        ("integer", 7, None),
        ("integer", "7", "Input should be a valid integer"),
        ("uuid", UUID, None),
        ("uuid", UUID.upper(), "must be a UUID in lower case"),
        ("uuid", UUID.replace("-", ""), "must be a UUID in lower case"),
        ("uuid", 7, "must be text"),
        ("text", "7", None),
        ("text", 7, "must be text: the job config has `agency_key: text`"),
    ],
)
def test_a_request_has_the_kind_of_key_that_the_job_config_has(kind: str, key: int | str, fault: str | None) -> None:
    """Nothing is converted: each agency has one spelling."""
    found = AgencyKey(kind).fault(key)

    assert found is None if fault is None else fault in str(found)


@pytest.mark.parametrize(
    ("kind", "value", "key"),
    [
        ("integer", "007", 7),
        ("integer", 7, 7),
        ("uuid", UUID.upper(), UUID),
        ("text", 7, "7"),
        ("text", "007", "007"),
    ],
)
def test_what_an_event_or_a_person_writes_is_converted(kind: str, value: int | str, key: int | str) -> None:
    """To the one spelling that requests have."""
    assert AgencyKey(kind).key_of(value) == key


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("integer", "acme"),
        ("integer", 0),
        ("integer", "٧"),
        ("uuid", "acme"),
        ("uuid", 7),
        ("text", True),
        ("text", "a\n"),
    ],
)
def test_what_means_no_key_is_refused(kind: str, value: Any) -> None:
    """The message says what it must be."""
    with pytest.raises(ValueError, match=r"integer|UUID|text"):
        AgencyKey(kind).key_of(value)
