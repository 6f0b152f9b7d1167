"""
All settings, derived from the models: variable, whether it is a secret, how it is displayed.

Users name secrets and webhooks. The settings of these are listed once, with `ANY` in place of the name.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from pipeline_processing.settings.settings import Section, Settings

PREFIX = "PIPELINE_"
MASK = "********"
ANY = "…"
"""Stands for a name that users choose."""
NAMED_SECRETS = "secrets"
WEBHOOKS = "webhooks"
NAME_RULE = "a lower-case letter, then up to 62 lower-case letters, digits and `_`, without `_file` at its end"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}(?<!_file)")
_FILE = "_file"
_OPTION_WITH_SECRET = re.compile(r"(?i)pass|secret|token|key$")

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

    def displayed(self, settings: Settings, *, name: str = "") -> str | None:
        """
        Return the value for display, as a user would write it, masked if secret; None if it isn't set.

        Of the URL of a database only the password is masked. `name` replaces `ANY`.
        """
        value: Any = settings
        for attribute in self.attributes:
            value = value[name] if attribute == ANY else getattr(value, attribute)
        match value:
            case None:
                return None
            case SecretStr():
                return _dsn_without_password(value.get_secret_value()) if self.path[-1] == "dsn" else MASK
            case bool():
                return str(value).lower()
            case tuple():
                return ",".join(value)
            case float():
                return f"{value:g}"
            case _:
                return str(value)


def _dsn_without_password(dsn: str) -> str:
    """Return `postgresql://user:********@db:5432/agencies`, or only the mask if the password's place isn't certain."""
    url = urlsplit(dsn)
    user, has_user, hosts = url.netloc.rpartition("@")
    if "@" in url.path + url.query + url.fragment:  # a password with an unescaped `/`, `?` or `#`
        return MASK
    name, has_password, _ = user.partition(":")
    options = [
        f"{key}={MASK if _OPTION_WITH_SECRET.search(unquote(key)) else value}"
        for key, _, value in (option.partition("=") for option in url.query.split("&") if option)
    ]
    return urlunsplit(
        url._replace(netloc=f"{name}{':' + MASK if has_password else ''}{has_user}{hosts}", query="&".join(options))
    )


def variable_of(path: SettingPath) -> str:
    """`("worker", "concurrency")` → `PIPELINE_WORKER__CONCURRENCY`."""
    return PREFIX + "__".join(path).upper()


def path_of(variable: str) -> SettingPath:
    """The inverse of `variable_of`, ignoring case."""
    first, *rest = variable[len(PREFIX) :].lower().split("__")
    # Names that users choose may contain two underscores as well.
    if first == NAMED_SECRETS and rest:
        return first, "__".join(rest)
    if first == WEBHOOKS and len(rest) > 1:
        return first, "__".join(rest[:-1]), rest[-1]
    return (first, *rest)


def setting_at(path: SettingPath) -> SettingKey | None:
    """Return the setting with this path, or None."""
    if path in SETTINGS:
        return SETTINGS[path]
    if len(path) > 1 and _NAME.fullmatch(path[1]):
        return NAMED.get((path[0], ANY, *path[2:]))
    return None


def named_settings(settings: Settings) -> list[tuple[SettingPath, SettingKey]]:
    """Return the settings of all secrets and webhooks that have been set, by name."""
    found = [
        ((section, name, *rest), key)
        for (section, _, *rest), key in NAMED.items()
        for name in getattr(settings, section)
    ]
    return sorted(found, key=lambda each: each[0][:2])


def is_secret(path: SettingPath) -> bool:
    """Whether the setting exists and holds a secret."""
    key = setting_at(path)
    return key is not None and key.secret


def secret_in_file(path: SettingPath) -> SettingPath | None:
    """`source.dsn_file` → `source.dsn`; None unless that is a secret, as `kafka.ca_file` etc. are settings."""
    secret = (*path[:-1], path[-1].removesuffix(_FILE))
    return secret if secret != path and is_secret(secret) and not is_secret(path) else None


def _keys(section: type[Section], path: SettingPath = (), attributes: tuple[str, ...] = ()) -> Iterator[SettingKey]:
    for attribute, info in section.model_fields.items():
        here, there = (*path, info.alias or attribute), (*attributes, attribute)
        annotation: Any = info.annotation
        if attribute in (NAMED_SECRETS, WEBHOOKS):
            here, there, annotation = (*here, ANY), (*there, ANY), get_args(annotation)[1]
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from _keys(annotation, here, there)
        else:
            yield SettingKey(here, there, info)


def _holds_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(_holds_secret(member) for member in get_args(annotation))


ALL_SETTINGS: tuple[SettingKey, ...] = tuple(_keys(Settings))
"""In the order of the documentation."""
NAMED: dict[SettingPath, SettingKey] = {key.path: key for key in ALL_SETTINGS if ANY in key.path}
SETTINGS: dict[SettingPath, SettingKey] = {key.path: key for key in ALL_SETTINGS if key.path not in NAMED}
SECTIONS: frozenset[SettingPath] = frozenset(key.path[:1] for key in ALL_SETTINGS if len(key.path) > 1)
KNOWN: tuple[SettingPath, ...] = (
    *SETTINGS,
    *((*path[:-1], path[-1] + _FILE) for path, key in SETTINGS.items() if key.secret),
)
"""All settings that a user may set, except those of secrets and webhooks."""
