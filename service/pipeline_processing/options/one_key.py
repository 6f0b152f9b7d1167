"""Parts of a config that are written as a mapping with one key, which says what the part is."""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import Discriminator

from pipeline_processing.plugins import is_plugin


def one_key(what: str, parts: Mapping[str, type], *, beside: Collection[str] = ()) -> Discriminator:
    """
    Tells the members of a tagged union apart by that key; `beside` are keys that may stand beside it.

    `parts` are the members by their tags; the one tagged `plugin` takes every name with a dot.
    """

    def tag(part: Any) -> str | None:
        if isinstance(part, Mapping):
            name = next((str(key) for key in part if key not in beside), None)
            return "plugin" if is_plugin(name) else name
        return next((name for name, kind in parts.items() if type(part) is kind), None)

    names = ", ".join(name for name in parts if name != "plugin")
    return Discriminator(
        tag,
        custom_error_type=f"unknown_{what}",
        custom_error_message=f"unknown {what}; a {what} is a mapping with one of the keys {names}, or the name of "
        f"another package's {what}, which has a dot",
    )
