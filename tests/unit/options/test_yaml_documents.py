"""How job configs are read."""

import pytest

from pipeline_processing.options.yaml_documents import InvalidYaml, load_yaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{on: status, null: x, no: 1, 1: a, true: b, 2026-01-18: c}", ["on", "null", "no", "1", "true", "2026-01-18"]),
    ],
)
def test_keys_are_text(text: str, value: list[str]) -> None:
    """Whatever a key looks like, it is what stands there."""
    assert list(load_yaml(text)) == value


def test_only_true_and_false_are_booleans() -> None:
    """Country codes and answers are text; numbers and null are what they are."""
    assert load_yaml("[true, False, NO, on, y, null, 1, 1.5]") == [True, False, "NO", "on", "y", None, 1, 1.5]


def test_a_key_that_stands_twice_is_an_error() -> None:
    """The first value isn't silently lost, and the message says where."""
    with pytest.raises(InvalidYaml, match=r"(?s)'format' is written twice.*line 2"):
        load_yaml("a: 1\nb: {format: csv, format: ndjson}")


def test_merged_mappings_are_taken() -> None:
    """Anchors and merge keys work, and a mapping's own keys win."""
    assert load_yaml("{base: &b {x: 1, y: 2}, other: {<<: *b, y: 3}}")["other"] == {"x": 1, "y": 3}


def test_nothing_but_plain_values() -> None:
    """A document can't make objects."""
    with pytest.raises(InvalidYaml):
        load_yaml("!!python/object/apply:os.system [ls]")


DOCUMENT = """\
base: &base {x: 1}
list:
  - {name: a, deep: {key: [1, 2]}}
  - <<: *base
    y: 2
"""


@pytest.mark.parametrize(
    ("location", "at_key", "found", "place"),
    [
        (("list", 0, "deep", "key", 1), False, ["list", 0, "deep", "key", 1], (3, 31)),
        (("list", 0, "deep"), True, ["list", 0, "deep"], (3, 15)),
        (("list", "a tag", 0, "name", "str"), False, ["list", 0, "name"], (3, 12)),
        (("list", 1, "x"), False, ["list", 1, "x"], (1, 17)),
        (("list", 1, "missing"), False, ["list", 1], (4, 5)),
        (("list", 9), False, ["list"], (3, 3)),
        ((), False, [], (1, 1)),
    ],
)
def test_a_document_tells_where_a_value_stands(
    location: tuple[str | int, ...], at_key: bool, found: list[str | int], place: tuple[int, int]
) -> None:
    """Or its key; parts of a location that the document doesn't have are skipped."""
    assert parse_yaml(DOCUMENT).locate(location, at_key=at_key) == (found, place)


def test_an_empty_document_has_a_place() -> None:
    """Its beginning."""
    document = parse_yaml("")
    assert document.value is None
    assert document.locate(("a",)) == ([], (1, 1))
