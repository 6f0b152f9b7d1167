"""Labels: what may be one, and how objects carry them."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipeline_processing.errors import InvalidRequest
from pipeline_processing.labels import MAX_ENCODED_BYTES, Labels, encoded_labels
from pipeline_processing.model import JobRequest
from pipeline_processing.requests.job_messages import parse_request

LABELS: TypeAdapter[dict[str, str]] = TypeAdapter(Labels)
EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples"

KEYS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=256)


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"team": "billing", "example.com/order-no_1": "A 17"},
        {"k" * 63: "v" * 256},
        {"empty": "", "text": "Größe, 寸法, 🙂 = & % + \" \\ ' <b>"},
        {f"k{number}": str(number) for number in range(16)},
    ],
)
def test_a_request_may_have_labels(labels: dict[str, str]) -> None:
    """They come back as they were sent."""
    assert parse_request(json.dumps({"agency_id": 7, "labels": labels}).encode()).labels == labels


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        ({"": "x"}, "must begin with a letter or digit"),
        ({"a key": "x"}, "labels.a key.[key]: must begin with a letter or digit"),
        ({"-k": "x"}, "must begin with a letter or digit"),
        ({"k" * 64: "x"}, "must begin with a letter or digit"),
        ({"größe": "x"}, "must begin with a letter or digit"),
        ({"k": "v" * 257}, "labels.k: String should have at most 256 characters"),
        ({"k": "two\nlines"}, "labels.k: String should match pattern"),
        ({"k": "\x1b[31m"}, "labels.k: String should match pattern"),
        ({"k": "\u2028"}, "labels.k: String should match pattern"),
        ({"k": 7}, "labels.k: Input should be a valid string"),
        ({"k": None}, "labels.k: Input should be a valid string"),
        ({f"k{number}": "" for number in range(17)}, "labels: Dictionary should have at most 16 items"),
        ({f"k{number}": "v" * 256 for number in range(6)}, "room for 1,536: use fewer or shorter labels"),
        ({"k": "寸" * 256}, "labels: take 2,306 bytes in percent-encoding"),
        (["team"], "labels: Input should be an object"),
        (None, "labels: Input should be an object"),
    ],
)
def test_a_request_with_other_labels_is_refused(labels: Any, fault: str) -> None:
    """The message names the label and says what may stand there."""
    with pytest.raises(InvalidRequest) as refused:
        parse_request(json.dumps({"agency_id": 7, "labels": labels}).encode())
    assert fault in str(refused.value)


def test_labels_are_sorted_by_key() -> None:
    """So that manifest and event show them in one order, whatever order the database returns."""
    assert list(JobRequest(agency_id=7, labels={"b": "1", "aa": "2", "a": "3"}).labels) == ["a", "aa", "b"]


def test_objects_carry_labels_as_a_query_string() -> None:
    """Not a space, because S3 clients fold and trim white space in metadata."""
    assert encoded_labels({"team": "Zürich", "order": "A 17", "a/b": ""}) == "a%2Fb=&order=A%2017&team=Z%C3%BCrich"


@given(st.dictionaries(KEYS, VALUES, max_size=18))
def test_what_is_accepted_fits_into_metadata(labels: dict[str, str]) -> None:
    """As printable ASCII without spaces, from which the labels can be read again."""
    try:
        accepted = LABELS.validate_python(labels)
    except ValidationError:
        assert len(labels) > 16 or len(encoded_labels(labels)) > MAX_ENCODED_BYTES
        return
    encoded = encoded_labels(accepted)
    assert len(encoded) <= MAX_ENCODED_BYTES
    assert encoded.isascii()
    assert " " not in encoded
    assert dict(parse_qsl(encoded, keep_blank_values=True, strict_parsing=bool(accepted))) == accepted == labels


def test_a_request_without_labels_has_the_digest_of_earlier_versions() -> None:
    """A message that was accepted before an upgrade and is delivered again after it asks for the same run."""
    full = json.loads((EXAMPLES / "job-request.full.json").read_text())
    del full["labels"]

    assert JobRequest(agency_id=7).digest() == "e4817f4f0c7715ab2b7f204fdbad26b323bfe778d718a966dbb15a501868e0b1"
    assert JobRequest(agency_id=7, labels={}).digest() == JobRequest(agency_id=7).digest()
    assert (
        parse_request(json.dumps(full).encode()).digest()
        == "30b4ab664d6926bf89464f41ad77dc091284aca1548fc2d1335437ab039ab895"
    )


def test_other_labels_make_another_request() -> None:
    """Labels are published, so one run id can't have two sets of them. Their order doesn't matter."""
    first = JobRequest(agency_id=7, labels={"a": "1", "b": "2"})

    assert first.digest() == JobRequest(agency_id=7, labels={"b": "2", "a": "1"}).digest()
    assert first.digest() != JobRequest(agency_id=7, labels={"a": "1"}).digest()
