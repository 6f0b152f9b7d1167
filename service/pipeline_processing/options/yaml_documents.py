"""
A safe subset of YAML: keys are always text, duplicate keys are errors, and only `true` and `false` are booleans.

PyYAML implements YAML 1.1, where the key `on:` of an enrich step is the boolean true, the key `null:` of the CSV
options is null, and a country `NO` is false. It also silently takes the last of duplicate keys.
"""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import yaml

from pipeline_processing.options.validation import shown

_BOOLEAN, _TEXT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:str"

_MAPPING_IN_TEXT = "mapping values are not allowed here"
_KEY_BELOW_TEXT = "a key below a text: the line above lacks its colon, or this line is indented too far"
_ADVICE = {
    _MAPPING_IN_TEXT: "a colon and a space make a mapping: put a text with a colon in quotes, or "
    "below the key after `|`",
    "found character '\\t' that cannot start any token": "a tab can't indent: use spaces",
    "could not find expected ':'": "a key needs a colon and a space behind it; a text below its key must be indented",
    "expected <block end>, but found": "the indentation, or the `-`, fits nothing above",
    "expected ',' or": "a bracket or brace isn't closed, or a comma is missing",
    "expected the node content": "a value is missing, or a bracket or brace isn't closed",
    "found unexpected end of stream": "a quote isn't closed",
    "found unhashable key": "a key must be plain text",
    "could not determine a constructor for the tag": "a tag (`!`) has no meaning here: put the text in quotes",
    "that cannot start any token": "no value starts with this character: put the text in quotes",
    "while scanning an alias": "an alias is a `*` and a name: put the text in quotes",
    "found another document": "a config is one document: leave out this `---` and what is below it",
    "found undefined alias": "no anchor (`&`) above has this name: put a text that starts with `*` in quotes",
}
"""What PyYAML says → what it mostly means in a config."""


class Place(NamedTuple):
    """A place in a document, counted from 1."""

    line: int
    column: int


class InvalidYaml(ValueError):
    """The document isn't valid. The message says why, and may quote the document."""

    def __init__(self, error: yaml.YAMLError | ValueError) -> None:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        self.place = None if mark is None else Place(mark.line + 1, mark.column + 1)
        """Where, if it is known."""
        said = ": ".join(filter(None, (getattr(error, "problem", None), getattr(error, "context", None)))) or str(error)
        advice = next((advice for words, advice in _ADVICE.items() if words in said), said)
        if mark is not None and _MAPPING_IN_TEXT in said:
            *_, before = mark.buffer[: mark.pointer].rpartition("\n")
            if ":" not in before:
                advice = _KEY_BELOW_TEXT
        super().__init__(advice)
        where = f"(at line {self.place.line}, column {self.place.column})" if self.place else ""
        twice = f": {error.problem}" if isinstance(error, _KeyTwice) else ""
        self.without_content = f"{where}{twice}"
        """The place, and keys of the document but no values, which may be secrets."""


class _KeyTwice(yaml.constructor.ConstructorError):
    """A mapping has the same key twice."""


class _Loader(yaml.SafeLoader):
    """A SafeLoader with the changes described above."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        names = [key.value for key in keys]
        for at, key in enumerate(keys):
            if key.value in names[:at]:
                raise _KeyTwice(None, None, f"the key {key.value!r} is written twice", key.start_mark)
        self.flatten_mapping(node)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = _TEXT
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOLEAN, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """A parsed document that knows where each value was written."""

    value: Any
    _root: yaml.Node | None

    def known(self, location: Sequence[str | int]) -> tuple[str | int, ...]:
        """
        Return the parts of a pydantic location that the document has. Others, such as tags of unions, are left out. An
        item of a list may be given by its index or its `name`.
        """
        return tuple(step.part for step in self._walk(location))

    def locate(
        self, location: Sequence[str | int], *, at_key: bool = False, word: str | None = None
    ) -> tuple[str, Place]:
        """
        Return the path of a pydantic location, such as `datasets[records].steps[2].mask`, and where its value starts,
        or with `at_key` its key. With `word`, the first key or value below it that is this text, if there is one.
        """
        steps = self._walk(location)
        if word is not None and (below := _find(steps[-1].node if steps else self._root, word)) is not None:
            steps += below
        mark = (
            (steps[-1].key if at_key else steps[-1].node).start_mark
            if steps
            else getattr(self._root, "start_mark", None)
        )
        path = "".join(step.shown for step in steps).removeprefix(".")
        return path, Place(mark.line + 1, mark.column + 1) if mark is not None else Place(1, 1)

    def _walk(self, location: Sequence[str | int]) -> "list[_Step]":
        node, steps = self._root, list[_Step]()
        for part in location:
            if (step := _child(node, part)) is not None:
                steps.append(step)
                node = step.node
        return steps


class _Step(NamedTuple):
    """A step from a value to one within it."""

    part: str | int
    shown: str
    key: yaml.Node
    node: yaml.Node


def _child(node: yaml.Node | None, part: str | int) -> _Step | None:
    if isinstance(node, yaml.SequenceNode):
        names = [_name_of(item) for item in node.value]
        for at, (name, item) in enumerate(zip(names, node.value, strict=True)):
            if part == at or (name is not None and part == name):
                return _Step(at, f"[{at if name is None or None in names else shown(name)}]", item, item)
    if isinstance(node, yaml.MappingNode):
        for key, value in reversed(node.value):  # keys that a merge (`<<`) adds come first
            if key.value == part:
                return _Step(part, f".{shown(str(part))}", key, value)
    return None


def _name_of(node: yaml.Node) -> str | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == "name" and value.tag == _TEXT and value.value:
                return str(value.value)
    return None


def _find(node: yaml.Node | None, word: str) -> list[_Step] | None:
    """Return the way to the first key or value that is this text."""
    if isinstance(node, yaml.ScalarNode):
        return [] if node.value == word else None
    parts: list[str | int] = list(range(len(node.value))) if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        parts = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    for part in parts:
        step = _child(node, part)
        assert step is not None
        if part == word:
            return [step._replace(node=step.key)]
        if (below := _find(step.node, word)) is not None:
            return [step, *below]
    return None


def load_yaml(text: str) -> Any:
    """Parse a document. Raises InvalidYaml."""
    return parse_yaml(text).value


def parse_yaml(text: str) -> YamlDocument:
    """Parse a document, keeping the places of its values. Raises InvalidYaml."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return YamlDocument(None if node is None else loader.construct_document(node), node)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that doesn't exist
        raise InvalidYaml(error) from None
    except RecursionError:
        raise InvalidYaml(ValueError("it is nested too deeply")) from None
    finally:
        loader.dispose()
