"""The tests' own parsers, on which the rest stands."""

import pytest

from tests.contract.source.helpers import parsed_csv, parsed_json


def test_the_parsers_are_strict():
    """The parsers that all of this rests on tell apart what must be told apart."""
    assert parsed_csv(b'a,""\n,"x""\n"\n') == [["a", ""], [None, 'x"\n']]
    for broken in (b"a", b'"a\n', b'a"b\n', b'"a"b\n', b"a\r\n"):
        with pytest.raises(AssertionError):
            parsed_csv(broken)
    assert parsed_json('{"a":1,"a":1.0}') != parsed_json('{"a":1.0}')
    assert parsed_json("-0.0") != parsed_json("0")
    assert parsed_json("1.50") == parsed_json("1.5")
    assert parsed_json("1") != parsed_json("true")
    for broken in ("NaN", "-Infinity", '"\n"', "01", ""):
        with pytest.raises(ValueError):  # noqa: PT011 - any refusal will do
            parsed_json(broken)
