"""Shares as people write them in configs."""

from decimal import Decimal
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from pipeline_processing.options.limits import Percent, Share


class Config(BaseModel):
    most: Share | None = None
    count_or_share: Annotated[int, Field(strict=True)] | Share | None = None


@pytest.mark.parametrize(
    ("text", "of_1000"),
    [("0%", "0"), ("0.1%", "1"), ("20%", "200"), ("100%", "1000"), ("0.05%", "0.5"), ("250%", "2500")],
)
def test_shares(text: str, of_1000: str):
    """Exactly, with fractions, and more than the whole where somebody wants it."""
    share = Config.model_validate({"most": text}).most

    assert share is not None
    assert share.of(1000) == Decimal(of_1000)
    assert str(share) == text


@given(thousandths=st.integers(0, 10**8), count=st.integers(0, 10**12))
def test_a_share_is_exact(thousandths: int, count: int):
    """However many rows there are: no float comes in between."""
    share = Percent(Decimal(thousandths) / 1000)

    assert share.of(count) * 100_000 == thousandths * count


@pytest.mark.parametrize(
    "value", ["20", "-1%", "%", "a%", "1 %", "1e3%", ".5%", "5.%", "20%\n", "", "1%%", "9999999999%"]
)
def test_what_is_no_share(value: str):
    """The message shows how one is written."""
    with pytest.raises(ValidationError, match="a share with a percent sign"):
        Config.model_validate({"most": value})


@pytest.mark.parametrize("value", [20, 0.2, True, ["20%"], {"value": "20"}])
def test_a_share_is_text(value: object):
    """A bare number could mean a share or a count."""
    with pytest.raises(ValidationError):
        Config.model_validate({"most": value})


def test_a_count_beside_a_share():
    """They are told apart by their types alone."""
    assert Config.model_validate({"count_or_share": 5}).count_or_share == 5
    assert Config.model_validate({"count_or_share": "5%"}).count_or_share == Percent(Decimal(5))
    with pytest.raises(ValidationError):
        Config.model_validate({"count_or_share": "5"})


def test_a_share_goes_through_json_and_back():
    """`config show` prints what a config may hold."""
    config = Config.model_validate({"most": "0.10%"})

    assert config.model_dump(mode="json")["most"] == "0.10%"
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_the_schema_says_what_a_share_looks_like():
    """As text of that pattern, with examples."""
    share = Config.model_json_schema()["properties"]["most"]["anyOf"][0]

    assert share["type"] == "string"
    assert "0.1%" in share["examples"]
    assert share["pattern"].endswith("%$")
