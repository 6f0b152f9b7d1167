"""
Every setting, taken from the models: its variable, whether it is a secret, how it is shown.

Secrets that users name themselves have paths too, `("secrets", "crm_token")`, but aren't listed.
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
"""The section in which users name secrets of their own."""
NAME_RULE = "a lower-case letter, then up to 62 lower-case letters, digits and `_`, without `_file` at its end"
_SECRET_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}(?<!_file)")
_FILE = "_file"

SettingPath = tuple[str, ...]
"""Where a setting is, as a settings file nests it, e.g. `("worker", "concurrency")`."""


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
        """Its value as people may see it, in the form in which they would write it; None if it isn't set."""
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
    """The inverse of `variable_of`, whatever the case."""
    first, *rest = variable[len(PREFIX) :].lower().split("__")
    # The names of secrets are the user's, and may have two underscores as well.
    return (first, "__".join(rest)) if first == NAMED_SECRETS and rest else (first, *rest)


def is_secret(path: SettingPath) -> bool:
    """Whether there is such a setting, and it holds a secret."""
    if path in SETTINGS:
        return SETTINGS[path].secret
    return len(path) == 2 and path[0] == NAMED_SECRETS and _SECRET_NAME.fullmatch(path[1]) is not None


def secret_in_file(path: SettingPath) -> SettingPath | None:
    """`source.dsn_file` → `source.dsn`, for secrets only: `kafka.ca_file` and the like are settings."""
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
"""In the order of the documentation, with one for all named secrets."""
SETTINGS: dict[SettingPath, SettingKey] = {key.path: key for key in ALL_SETTINGS if key.path != (NAMED_SECRETS,)}
SECTIONS: frozenset[SettingPath] = frozenset({(NAMED_SECRETS,), *(path[:1] for path in SETTINGS if len(path) > 1)})
KNOWN: tuple[SettingPath, ...] = (
    *SETTINGS,
    *((*path[:-1], path[-1] + _FILE) for path, key in SETTINGS.items() if key.secret),
)
"""All that a user may write, except named secrets."""
