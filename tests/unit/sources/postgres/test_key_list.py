"""Keys are fitted to what a query takes: those that no value of the type equals are left out."""

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.errors import QueryInvalid
from pipeline_processing.sources.postgres.key_list import _FITS, KeyList, _one_of

NAN = Decimal("NaN")
MOMENT = datetime(2026, 1, 18, 10, tzinfo=UTC)


def fitted(type_name: str, *keys: object) -> list[object]:
    """Keys as they are sent; the contract's tests show that they arrive."""
    return KeyList(type_name, _FITS[type_name]).fitted(keys)


@pytest.mark.parametrize(
    ("type_name", "keys", "sent"),
    [
        ("text", ["a", "", "a\0", "\ud800", "é"], ["a", "", "é"]),
        ("int2", [1, -32768, 32768, Decimal("2.0"), 1.5, NAN, Decimal("Infinity")], [1, -32768, 2]),
        ("int4", [2**31 - 1, 2**31, -(2**31), Decimal("1e100000")], [2**31 - 1, -(2**31)]),
        ("int8", [2**63 - 1, 2**63, 5.0], [2**63 - 1, 5]),
        ("numeric", [1, Decimal("1.50"), 0.1], [1, Decimal("1.50"), Decimal("0.1")]),
        ("float8", [1, 0.1, Decimal("1e400"), Decimal("1e-400"), 0], [Decimal(1), Decimal("0.1"), Decimal(0)]),
        ("float4", [0.1, Decimal("1e39"), Decimal("1e-50")], [Decimal("0.1")]),
        ("bool", [True, False], [True, False]),
        ("uuid", [UUID(int=1), "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "x"], None),
        ("date", [date(2026, 1, 18), "infinity", "0044-03-15 BC", "yesterday"], None),
        ("timestamptz", [MOMENT, "12026-01-18T00:00:00+00:00", "-infinity", date(2026, 1, 18), "now"], None),
        ("timestamp", [MOMENT, "12026-01-18 10:00:00.5", "xinfinity"], None),
    ],
)
def test_keys_that_can_be_equal_are_sent(type_name, keys, sent):
    """As `=` would have it: 2.0 is 2 among integers, and 1.5, or a number out of range, is none of them."""
    if sent is None:  # all but the last
        sent = [str(key).lower() if type_name == "uuid" else key for key in keys[:-1]]
    assert fitted(type_name, *keys) == sent


@pytest.mark.parametrize(
    ("type_name", "key"),
    [
        ("text", 5),
        ("int4", "5"),
        ("int4", True),
        ("numeric", "5"),
        ("float8", "5"),
        ("bool", 1),
        ("uuid", 5),
        ("date", MOMENT),
        ("date", 5),
        ("timestamptz", 5),
    ],
)
def test_keys_of_another_type_are_the_configs_fault(type_name, key):
    """They would never be found, whatever they are. The message names the types, and not the key."""
    with pytest.raises(QueryInvalid, match=rf"list of {type_name} as \$1.*{type(key).__name__}"):
        fitted(type_name, key)


def test_labels_of_an_enum():
    """Postgres refuses others as no value of the type."""
    moods = KeyList("mood", _one_of(frozenset(["zen", "angry"])))

    assert moods.fitted(["zen", "Zen", ""]) == ["zen"]
    with pytest.raises(QueryInvalid, match="list of mood"):
        moods.fitted([5])


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_is_a_float(number):
    """To its last digit, whatever type the rows have it in."""
    assert fitted("float8", number, Decimal(repr(number))) == [Decimal(repr(number))] * 2
