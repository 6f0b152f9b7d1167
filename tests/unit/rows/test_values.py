"""Keys order as Postgres orders. tests/contract/steps holds them, with the filter, against Postgres itself."""

# ruff: noqa: E501 - tables of samples

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest

from pipeline_processing.rows import values


@pytest.mark.parametrize(
    "ordered",
    [
        ["-Infinity", "-1234567890123456789012345678901234567890.5", "-1", "-0.1", "0", "1e-30", "0.1", "1", "1e400", "Infinity", "NaN"],
    ],
)  # fmt: skip
def test_numbers(ordered: list[str]):
    """NaN is greater than all others, and equal to itself."""
    keys = [values.number_key(text) for text in ordered]

    assert all(a < b and b > a and a != b for a, b in pairwise(keys))
    assert values.number_key("NaN") == values.number_key(float("nan")) == values.number_literal("NaN")
    assert values.number_key("-0") == values.number_key("0.00") == 0
    assert {values.number_key("NaN"), values.number_key("1.0")} == {values.NAN, 1}


TIMES = [
    "-infinity", "4713-01-01 00:00:00 BC", "0044-03-15 00:00:00 BC", "0044-03-15 00:00:00.5 BC", "0044-03-16 00:00:00 BC",
    "0001-12-31 23:59:59 BC", "0001-01-01 00:00:00", "0999-01-01 00:00:00", "2026-01-18 10:00:00", "2026-01-18 10:00:00.1",
    "2026-01-18 10:00:00.12", "2026-01-18 10:00:00.2", "2026-01-18 10:00:01", "9999-12-31 00:00:00", "10000-01-01 00:00:00",
    "294276-12-31 23:59:59.999999", "infinity",
]  # fmt: skip


@pytest.mark.parametrize("zone", ["", "+00"])
def test_times(zone: str):
    """Years before 1 and after 9999, fractions of any length, infinities."""
    texts = [
        text if "inf" in text else text.replace(" BC", "") + zone + (" BC" if "BC" in text else "") for text in TIMES
    ]

    assert all(values.time_key(a) < values.time_key(b) for a, b in pairwise(texts))


@pytest.mark.parametrize(
    ("literal", "printed"),
    [
        ("2026-01-18", "2026-01-18 00:00:00+00"),
        ("2026-01-18T10:00:00Z", "2026-01-18 10:00:00+00"),
        ("2026-01-18 12:30:00.500000+02:30", "2026-01-18 10:00:00.5+00"),
        (" 2026-01-18 10:00 ", "2026-01-18 10:00:00+00"),
        ("infinity", "infinity"),
        ("-infinity", "-infinity"),
    ],
)
def test_literals_of_instants(literal: str, printed: str):
    """In whatever zone they are written; UTC where there is none."""
    assert values.timestamptz_literal(literal) == values.time_key(printed)


@pytest.mark.parametrize(
    "literal", ["yesterday", "2026-02-30", "", "10:00", 5, True, "9999-12-31 23:00-05", "0001-01-01 00:00+05"]
)
def test_what_is_no_time(literal: str | int | bool):
    """A literal that isn't understood is refused, never guessed at."""
    with pytest.raises(ValueError):  # noqa: PT011 - the filter words the message
        values.timestamptz_literal(literal)


@pytest.mark.parametrize(
    ("read", "literal"),
    [
        (values.number_literal, "abc"), (values.number_literal, True), (values.float_literal, "1,5"), (values.text_literal, 5),
        (values.boolean_literal, "perhaps"), (values.boolean_literal, 2), (values.date_literal, "2026-01-18 10:00"),
        (values.timestamp_literal, "18.1.2026"), (values.uuid_literal, "abc"), (values.padded_text_literal, 5),
    ],
)  # fmt: skip
def test_literals_of_another_type(read, literal):
    """They are refused as ValueError, which the filter turns into a message."""
    with pytest.raises(ValueError):  # noqa: PT011 - the filter words the message
        read(literal)


@pytest.mark.parametrize(
    ("literal", "truth"),
    [
        ("t", True),
        (" Yes ", True),
        ("ON", True),
        ("1", True),
        ("f", False),
        ("no", False),
        ("off", False),
        (False, False),
    ],
)
def test_booleans(literal: str | bool, truth: bool):
    """As Postgres reads them."""
    assert values.boolean_literal(literal) is truth


def test_padded_text():
    """char(n) means the same with and without its padding."""
    assert values.padded_text_key("ab   ") == values.padded_text_literal("ab ") == "ab"
    assert values.padded_text_key(" ab\t ") == " ab\t"


def test_uuids():
    """In any spelling."""
    assert values.uuid_literal("A0EEBC999C0B4EF8BB6D6BB9BD380A11") == "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 1, 18, 10, tzinfo=UTC), "2026-01-18T10:00:00+00:00"),
        (datetime(2026, 1, 18, 10, 0, 0, 120000, tzinfo=UTC), "2026-01-18T10:00:00.12+00:00"),
        (
            datetime(2026, 1, 18, 10, 0, 0, 1, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
            "2026-01-18T10:00:00.000001-03:30",
        ),
        (datetime(1, 1, 1, 0, 0, 0, 100000), "0001-01-01T00:00:00.1"),  # noqa: DTZ001 - a timestamp without time zone
    ],
)
def test_texts_of_times(moment: datetime, text: str):
    """Without trailing zeros of the fraction."""
    assert values.time_text(moment, "T") == text
