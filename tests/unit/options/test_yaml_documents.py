"""How job configs are read."""

from typing import Any

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
    with pytest.raises(InvalidYaml, match="the key 'format' is written twice"):
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
named: [{name: x, a: 1}, {name: y, b: 1}]
"""


@pytest.mark.parametrize(
    ("location", "how", "path", "place"),
    [
        (("list", 0, "deep", "key", 1), {}, "list[0].deep.key[1]", (3, 31)),
        (("list", 0, "deep"), {"at_key": True}, "list[0].deep", (3, 15)),
        (("list", "a tag", 0, "name", "str"), {}, "list[0].name", (3, 12)),
        (("list", "a", "deep"), {"word": "2"}, "list[0].deep.key[1]", (3, 31)),
        (("list", "a"), {"word": "key"}, "list[0].deep.key", (3, 22)),
        (("list", "a"), {"word": "y"}, "list[0]", (3, 5)),
        (("list", 1, "x"), {}, "list[1].x", (1, 17)),
        (("list", 1, "missing"), {}, "list[1]", (4, 5)),
        (("list", 9), {}, "list", (3, 3)),
        (("named", 1, "b"), {}, "named[y].b", (6, 39)),
        (("named", "x"), {}, "named[x]", (6, 9)),
        ((), {}, "", (1, 1)),
    ],
)
def test_a_document_tells_where_a_value_stands(
    location: tuple[str | int, ...], how: dict[str, Any], path: str, place: tuple[int, int]
) -> None:
    """Or its key, or a word below; parts of a location that the document doesn't have are skipped."""
    assert parse_yaml(DOCUMENT).locate(location, **how) == (path, place)


def test_an_empty_document_has_a_place() -> None:
    """Its beginning."""
    document = parse_yaml("")
    assert document.value is None
    assert document.locate(("a",)) == ("", (1, 1))


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a: 1\nb: c: d", (2, 5), "a colon and a space make a mapping"),
        ("a\n  b: c", (2, 4), "the line above lacks its colon"),
        ("- a: b\n    c: d", (2, 6), "indented too far"),
        ("a:\n\tb: 1", (2, 1), "a tab can't indent"),
        ("a: [1, 2", (1, 9), "isn't closed"),
        ("a: 'x", (1, 6), "a quote isn't closed"),
        ("a:\n  - b\n c: d", (3, 2), "fits nothing above"),
        ("a: @b", (1, 4), "put the text in quotes"),
        ("a: *b", (1, 4), "no anchor"),
        ("a: 1\nb", (2, 2), "a key needs a colon"),
    ],
)
def test_what_is_wrong_with_a_document(text: str, place: tuple[int, int], message: str) -> None:
    """In a user's words, with line and column."""
    with pytest.raises(InvalidYaml, match=message) as raised:
        parse_yaml(text)

    assert raised.value.place == place
