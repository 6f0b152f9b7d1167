"""
Every setting there is, taken from the models: its variable, whether it is a secret, how it is shown.

The secrets that users name themselves have paths too, `("secrets", "crm_token")`, but aren't listed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from pipeline_processing.settings.settings import Section, Settings

PREFIX = "PIPELINE_"
MASK = "********"
NAMED_SECRETS = "secrets"
"""The setting, and section of a settings file, in which users name secrets of their own."""
NAME_RULE = "a lower-case letter, then up to 62 lower-case letters, digits and `_`, without `_file` at its end"
_SECRET_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}(?<!_file)")
_FILE = "_file"

SettingPath = tuple[str, ...]
"""Where a setting is, as a settings file nests it, e.g. `("worker", "concurrency")`."""


class SettingDoc(NamedTuple):
    """One setting as documentation tells it. No default means that it isn't set."""

    variable: str
    description: str
    default: str | None
    secret: bool


@dataclass(frozen=True, slots=True)
class SettingKey:
    """One setting: `attributes` lead to its value in `Settings`."""

    path: SettingPath
    attributes: tuple[str, ...]
    field: FieldInfo
    secret: bool

    @property
    def variable(self) -> str:
        return variable_of(self.path)

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


def is_known(path: SettingPath) -> bool:
    """Whether a user may write it."""
    return path in KNOWN or _is_named_secret(path) or (secret_in_file(path) is not None)


def is_secret(path: SettingPath) -> bool:
    """Whether its value is a secret."""
    return _is_named_secret(path) or (path in SETTINGS and SETTINGS[path].secret)


def secret_in_file(path: SettingPath) -> SettingPath | None:
    """`source.dsn_file` → `source.dsn`, for secrets only: `kafka.ca_file` and its like are settings."""
    if path in SECRET_FILES:
        return SECRET_FILES[path]
    secret = (*path[:-1], path[-1].removesuffix(_FILE))
    return secret if secret != path and _is_named_secret(secret) else None


def _is_named_secret(path: SettingPath) -> bool:
    return len(path) == 2 and path[0] == NAMED_SECRETS and _SECRET_NAME.fullmatch(path[1]) is not None


def setting_docs() -> list[SettingDoc]:
    """Every setting there is, for the documentation."""
    nothing = Settings()
    return [
        SettingDoc(
            variable=f"{key.variable}__…" if key.path == (NAMED_SECRETS,) else key.variable,
            description=key.field.description or "",
            default=None if key.path == (NAMED_SECRETS,) else key.displayed(nothing),
            secret=key.secret,
        )
        for key in _keys(Settings)
    ]


def _keys(section: type[Section], path: SettingPath = (), attributes: tuple[str, ...] = ()) -> Iterator[SettingKey]:
    for attribute, info in section.model_fields.items():
        here, there = (*path, info.alias or attribute), (*attributes, attribute)
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from _keys(info.annotation, here, there)
        else:
            yield SettingKey(here, there, info, secret=_holds_secret(info.annotation))


def _holds_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(_holds_secret(member) for member in get_args(annotation))


SETTINGS: dict[SettingPath, SettingKey] = {key.path: key for key in _keys(Settings) if key.path != (NAMED_SECRETS,)}
SECRET_FILES: dict[SettingPath, SettingPath] = {
    (*key.path[:-1], f"{key.path[-1]}{_FILE}"): key.path for key in SETTINGS.values() if key.secret
}
KNOWN: tuple[SettingPath, ...] = (*SETTINGS, *SECRET_FILES)
"""All that a user may write, but for named secrets."""
