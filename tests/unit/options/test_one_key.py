"""Parts of a config that are told apart by the one key they have."""

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Tag, TypeAdapter, ValidationError, model_validator

from pipeline_processing.options.one_key import one_key


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    note: str | None = None


class Red(Part):
    red: int


class Blue(Part):
    blue: int


class Plugged(BaseModel):
    name: str

    @model_validator(mode="before")
    @classmethod
    def _by_its_name(cls, part: Any) -> Any:
        return {"name": next(iter(part))}


PARTS = TypeAdapter(
    Annotated[
        Annotated[Red, Tag("red")] | Annotated[Blue, Tag("blue")] | Annotated[Plugged, Tag("plugin")],
        one_key("colour", {"red": Red, "blue": Blue, "plugin": Plugged}, beside=("note",)),
    ]
)


@pytest.mark.parametrize(
    ("part", "read"),
    [
        ({"red": 1}, Red(red=1)),
        ({"blue": 2}, Blue(blue=2)),
        ({"note": "n", "blue": 2}, Blue(blue=2, note="n")),
        ({"blue": 2, "note": "n"}, Blue(blue=2, note="n")),
        ({"acme.mauve": {}}, Plugged.model_construct(name="acme.mauve")),
        (Red(red=1), Red(red=1)),
    ],
)
def test_parts_by_their_key(part: Any, read: BaseModel):
    """A key that may stand beside it says nothing, wherever it stands; a name with a dot is another package's."""
    assert PARTS.validate_python(part) == read


@pytest.mark.parametrize("part", [{"green": 1}, {}, {"note": "n"}, "red", None, 5, ["red"], {1: 2}])
def test_parts_of_no_kind(part: Any):
    """The message has all names that there are, and how others would be written."""
    with pytest.raises(ValidationError) as raised:
        PARTS.validate_python(part)

    (fault,) = raised.value.errors()
    assert fault["type"] == "unknown_colour"
    assert fault["msg"] == (
        "unknown colour; a colour is a mapping with one of the keys red, blue, or the name of another package's "
        "colour, which has a dot"
    )


def test_the_first_key_decides():
    """A second one is a fault of that part."""
    with pytest.raises(ValidationError) as raised:
        PARTS.validate_python({"red": 1, "blue": 2})

    assert [fault["loc"] for fault in raised.value.errors()] == [("red", "blue")]
