"""
All settings, derived from the models: variable, whether it is a secret, how it is displayed.

Secrets named by users also have paths, such as `("secrets", "crm_token")`, but aren't listed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from pipeline_processing.settings.settings import Section, Settings

PREFIX = "PIPELINE_"
MASK = "********"
NAMED_SECRETS = "secrets"
"""The section of secrets named by users."""
NAME_RULE = "a lower-case letter, then up to 62 lower-case letters, digits and `_`, without `_file` at its end"
_SECRET_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}(?<!_file)")
_FILE = "_file"

SettingPath = tuple[str, ...]
"""The keys that lead to a setting in a settings file, e.g. `("worker", "concurrency")`."""


@dataclass(frozen=True, slots=True)
class SettingKey:
    """One setting: `attributes` lead to its value in `Settings`."""

    path: SettingPath
    attributes: tuple[str, ...]
    field: FieldInfo

    @property
    def secret(self) -> bool:
        return _holds_secret(self.field.annotation)

    def displayed(self, settings: Settings) -> str | None:
        """Return the value for display, as a user would write it, masked if secret; None if it isn't set."""
        value: Any = settings
        for attribute in self.attributes:
            value = getattr(value, attribute)
        match value:
            case None:
                return None
            case SecretStr():
                return MASK
            case bool():
                return str(value).lower()
            case tuple():
                return ",".join(value)
            case float():
                return f"{value:g}"
            case _:
                return str(value)


def variable_of(path: SettingPath) -> str:
    """`("worker", "concurrency")` → `PIPELINE_WORKER__CONCURRENCY`."""
    return PREFIX + "__".join(path).upper()


def path_of(variable: str) -> SettingPath:
    """The inverse of `variable_of`, ignoring case."""
    first, *rest = variable[len(PREFIX) :].lower().split("__")
    # Users choose the names of secrets, which may contain two underscores as well.
    return (first, "__".join(rest)) if first == NAMED_SECRETS and rest else (first, *rest)


def is_secret(path: SettingPath) -> bool:
    """Whether the setting exists and holds a secret."""
    if path in SETTINGS:
        return SETTINGS[path].secret
    return len(path) == 2 and path[0] == NAMED_SECRETS and _SECRET_NAME.fullmatch(path[1]) is not None


def secret_in_file(path: SettingPath) -> SettingPath | None:
    """`source.dsn_file` → `source.dsn`; None unless that is a secret, as `kafka.ca_file` etc. are settings."""
    secret = (*path[:-1], path[-1].removesuffix(_FILE))
    return secret if secret != path and is_secret(secret) and not is_secret(path) else None


def _keys(section: type[Section], path: SettingPath = (), attributes: tuple[str, ...] = ()) -> Iterator[SettingKey]:
    for attribute, info in section.model_fields.items():
        here, there = (*path, info.alias or attribute), (*attributes, attribute)
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from _keys(info.annotation, here, there)
        else:
            yield SettingKey(here, there, info)


def _holds_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(_holds_secret(member) for member in get_args(annotation))


ALL_SETTINGS: tuple[SettingKey, ...] = tuple(_keys(Settings))
"""In the order of the documentation, with one entry for all named secrets."""
SETTINGS: dict[SettingPath, SettingKey] = {key.path: key for key in ALL_SETTINGS if key.path != (NAMED_SECRETS,)}
SECTIONS: frozenset[SettingPath] = frozenset({(NAMED_SECRETS,), *(path[:1] for path in SETTINGS if len(path) > 1)})
KNOWN: tuple[SettingPath, ...] = (
    *SETTINGS,
    *((*path[:-1], path[-1] + _FILE) for path, key in SETTINGS.items() if key.secret),
)
"""All settings that a user may set, except named secrets."""
