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

_BOOLEAN, _TEXT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:str"


class InvalidYaml(ValueError):
    """The document isn't valid. The message says where and why, and may quote the document."""

    def __init__(self, error: yaml.YAMLError | ValueError) -> None:
        super().__init__(str(error))
        mark = getattr(error, "problem_mark", None)
        place = f"(at line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        twice = f": {error.problem}" if isinstance(error, _KeyTwice) else ""
        self.without_content = f"{place}{twice}"
        """The message with keys of the document but no values, which may be secrets."""


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


class Place(NamedTuple):
    """A place in a document, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """A parsed document that knows where each value was written."""

    value: Any
    _root: yaml.Node | None

    def locate(self, location: Sequence[str | int], *, at_key: bool = False) -> tuple[list[str | int], Place]:
        """
        Return the part of a pydantic location that the document has, and where its last value starts, or with `at_key`
        its key. Other parts, such as tags of unions, are skipped.
        """
        node, key = self._root, self._root
        found: list[str | int] = []
        for part in location:
            child = _child(node, part)
            if child is not None:
                key, node = child
                found.append(part)
        shown = key if at_key else node
        mark = shown.start_mark if shown is not None else None
        return found, Place(mark.line + 1, mark.column + 1) if mark is not None else Place(1, 1)


def _child(node: yaml.Node | None, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    if isinstance(node, yaml.MappingNode):
        for key, value in reversed(node.value):  # keys that a merge (`<<`) adds come first
            if key.value == part:
                return key, value
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
