"""
YAML as people mean it: keys are text as it is written, each once, and only `true` and `false` are booleans.

PyYAML reads YAML 1.1, where the keys `on:` of an enrich step and `null:` of the CSV options would be the boolean true
and null, and a country `NO` false. Of a key that stands twice it would take the last.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

_BOOLEAN, _TEXT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:str"


class _Loader(yaml.SafeLoader):
    """Builds plain values only."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        twice = _twice([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands here twice", node.start_mark)
        self.flatten_mapping(node)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = _TEXT
        return super().construct_mapping(node, deep=deep)


def _twice(names: list[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOLEAN, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def load_yaml(text: str) -> Any:
    """A document. Raises yaml.YAMLError, or ValueError for a date that there isn't."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader, but for the above
