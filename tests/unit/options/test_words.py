"""Pydantic's errors of YAML, in YAML's words."""

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from pipeline_processing.options.config_file import ConfigFile
from pipeline_processing.options.words import saying
from pipeline_processing.options.yaml_documents import parse_yaml


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    a: int = 0


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, StringConstraints(min_length=2, max_length=4)] = "ab"
    code: Annotated[str, StringConstraints(pattern="^[a-z]$"), saying("must be one small letter")] = "a"
    raw: Annotated[str, StringConstraints(pattern="^[a-z]$")] = "a"
    choice: Literal["fast", "slow"] = "fast"
    only: Literal["x"] = "x"
    count: int = Field(1, gt=0, lt=10)
    share: Decimal = Decimal(1)
    flag: bool = True
    some: list[int] = Field([1], min_length=1, max_length=2)
    names: dict[Annotated[str, StringConstraints(min_length=2)], str] = {}
    inner: Inner | None = None
    either: int | list[Inner] = 1
    path: Path = Path()
    day: date = date(2026, 1, 1)
    nothing: None = None


FAULTS = {
    "text: [a]": "text: must be text",
    "text: 2026-01-18": "text: must be text: put it in quotes",
    "text: ''": "text: must have at least 2 characters",
    "text: abcde": "text: must have at most 4 characters",
    "text:": "text: is empty, but must be text",
    "code: AB": "code: must be one small letter",
    "code: 5": "code: must be text: put it in quotes",
    "raw: AB": "raw: must match ^[a-z]$",
    "choice: fsat": "choice: must be fast or slow: did you mean fast?",
    "choice: 7": "choice: must be fast or slow",
    "only: y": "only: must be x",
    "count: many": "count: must be a whole number",
    "count: 1.5": "count: must be a whole number",
    "count: 0": "count: must be more than 0",
    "count: 10": "count: must be less than 10",
    "share: half": "share: must be a number",
    "flag: perhaps": "flag: must be true or false",
    "some: []": "some: must have at least one",
    "some: [1, 2, 3]": "some: must have at most 2",
    "some: 1": "some: must be a list: put it in brackets",
    "some: {a: 1}": "some: must be a list: begin each item with `- `",
    "names: a": "names: must be a mapping of `key: value`",
    "names: {a: b}": "names.a: must have at least 2 characters",
    "names: {bc: numeric(10,2)}": "names.2): within braces a comma ends a text, so put it in quotes",
    "names: {f(x):}": "names.f(x): is empty, but must be text",
    "inner: {choice: fast}": "inner.choice: unknown key: it belongs at the top of the file, not here",
    "inner: {nothings: 5}": "inner.nothings: unknown key: did you mean nothing, at the top of the file?",
    "inner: 5": "inner: must be a mapping with a",
    "inner: {b: 1}": "inner.b: unknown key. Known are a",
    "either: x": "either: must be a whole number or a list: put it in brackets",
    "either: [{b: 1}]": "either[0].b: unknown key. Known are a",
    "path: 5": "path: must be text: put it in quotes",
    "nothing: 5": "nothing: must be null",
    "chioce: fast": "chioce: unknown key: did you mean choice?",
}


@pytest.mark.parametrize(("text", "words"), FAULTS.items())
def test_words(text: str, words: str) -> None:
    """They say what must be there, and never the value."""
    file = ConfigFile(Path("a.yaml"), parse_yaml(text))
    with pytest.raises(ValidationError) as raised:
        Model.model_validate(file.document.value)

    (line,) = file.lines(file.faults(raised.value, Model))

    assert line.split(" ", 3)[3] == words


def test_a_message_of_a_package_is_left_as_it_is() -> None:
    """Except that it says what must be."""
    document: dict[str, Any] = {"day": "soon"}
    file = ConfigFile(Path("a.yaml"), parse_yaml("day: soon"))
    with pytest.raises(ValidationError) as raised:
        Model.model_validate(document)

    (fault,) = file.faults(raised.value, Model)

    assert fault.message.startswith("must be a valid date")
