"""Text with names in braces."""

import pytest

from pipeline_processing.options.templates import names_in, pieces_of


def test_text_is_split_at_its_names():
    """Doubled braces are plain ones."""
    assert pieces_of("a {b} {{c}} {d}") == [("a ", "b"), (" {", None), ("c}", None), (" ", "d")]
    assert names_in("a {b} {{c}} {d}") == {"b", "d"}


@pytest.mark.parametrize("text", ["{", "}", "{a", "{}", "{a!r}", "{a:>5}"])
def test_braces_that_cannot_be_read(text: str):
    """The message says how plain braces are written."""
    with pytest.raises(ValueError, match=r"write \{\{ and \}\} for plain|Write \{\{ and \}\} for plain"):
        pieces_of(text)
