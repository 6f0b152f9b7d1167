"""Durations as people write them in configs."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from pipeline_processing.options.durations import Duration, duration_in_words, format_duration, parse_duration


class Config(BaseModel):
    limit: Duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("90s", 90),
        ("1.5s", 1.5),
        ("15m", 900),
        ("1h", 3600),
        ("2d", 172800),
        ("0s", 0),
        ("0.5h", 1800),
    ],
)
def test_units(text: str, seconds: float):
    """Milliseconds to days, with fractions."""
    assert Config(limit=text).limit == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "value",
    [
        "90",
        "s",
        "",
        "-1s",
        "1 h",
        "1h30m",
        "1w",
        "1H",
        "1e3s",
        "1.s",
        ".5s",
        "1h\n",
        "inf",
        90,
        1.5,
        None,
        "9" * 40 + "d",
    ],
)
def test_what_is_not_a_duration(value: object):
    """A bare number is refused too: seconds or milliseconds would be a guess."""
    with pytest.raises(ValidationError, match="duration"):
        Config(limit=value)


def test_a_timedelta_is_taken_as_it_is():
    """Code needn't write text."""
    assert Config(limit=timedelta(seconds=5)).limit == timedelta(seconds=5)


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=100_000)))
def test_what_is_written_is_read_back(value: timedelta):
    """In JSON, durations of any length keep their value."""
    assert parse_duration(format_duration(value)) - value < timedelta(milliseconds=1)
    assert Config.model_validate_json(Config(limit=value).model_dump_json()).limit - value < timedelta(milliseconds=1)


@pytest.mark.parametrize("text", ["250ms", "1s", "90s", "5m", "90m", "1h", "36h", "2d"])
def test_a_duration_in_words_is_as_a_person_writes_it(text: str) -> None:
    """In the largest unit that divides it."""
    assert duration_in_words(parse_duration(text)) == text
