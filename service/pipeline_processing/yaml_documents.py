"""
YAML as people mean it: `on`, `off`, `yes` and `no` are text, as in YAML 1.2, and only `true` and `false` are booleans.

PyYAML reads YAML 1.1, where the key `on:` of an enrich step would be the boolean true.
"""

import re
from typing import Any

import yaml

_BOOLEAN = "tag:yaml.org,2002:bool"


class _Loader(yaml.SafeLoader):
    """Builds plain values only."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOLEAN, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def load_yaml(text: str) -> Any:
    """A document. Raises yaml.YAMLError, or ValueError for a date that there isn't."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader, but for the booleans
