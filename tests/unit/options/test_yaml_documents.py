"""How job configs are read."""

import pytest

from pipeline_processing.options.yaml_documents import InvalidYaml, load_yaml


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
