"""
Reads the settings: command line, environment, settings file, default, in this order. The only reader of the
environment in the package, through the mapping that it is given.

All faults are collected and told at once, each under the name that the user wrote, none with a secret in it.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import unquote

from pydantic import ValidationError

from pipeline_processing.errors import SettingsError
from pipeline_processing.settings.document import UnreadableFile, read_document, read_text
from pipeline_processing.settings.keys import (
    KNOWN,
    MASK,
    NAME_RULE,
    NAMED_SECRETS,
    PREFIX,
    SETTINGS,
    SettingPath,
    is_known,
    is_secret,
    path_of,
    secret_in_file,
    variable_of,
)
from pipeline_processing.settings.settings import Settings
from pipeline_processing.telemetry.masking import Mask, names_a_secret

_SETTINGS_FILE: SettingPath = ("settings_file",)
_JOB_CONFIG_FILE: SettingPath = ("job_config_file",)
_READ_BY_DRIVERS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PGPASSWORD")
_HEADERS_OF_EXPORTERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
_LENGTH_OF_A_TOKEN = 16


class InvalidSettings(SettingsError):
    """
    Some settings are wrong. `faults` has a line for each; `job_config_file` is what is known of that setting
    all the same, so that `config check` can go on to the job config.
    """

    def __init__(self, faults: list[str], *, job_config_file: Path | None = None) -> None:
        super().__init__("The settings aren't valid:\n" + "\n".join(f"  {fault}" for fault in faults))
        self.faults = tuple(faults)
        self.job_config_file = job_config_file


class SettingEntry(NamedTuple):
    """One setting as `config show` prints it: a secret's value is a mask, and None is "not set"."""

    variable: str
    value: str | None
    origin: str


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The settings, and variable → where its value comes from."""

    settings: Settings
    origins: Mapping[str, str]

    def entries(self) -> list[SettingEntry]:
        """Every setting there is, in the order of the documentation, and then the named secrets that are set."""
        named = sorted(variable_of((NAMED_SECRETS, name)) for name in self.settings.secrets)
        return [
            *(self._entry(variable_of(path)) for path in SETTINGS),
            *(SettingEntry(variable, MASK, self.origins[variable]) for variable in named),
        ]

    def _entry(self, variable: str) -> SettingEntry:
        value = SETTINGS[path_of(variable)].displayed(self.settings)
        origin = self.origins[variable]
        if variable == "PIPELINE_HISTORY__DSN" and value is None and self.settings.source.dsn is not None:
            return SettingEntry(variable, MASK, "default, from PIPELINE_SOURCE__DSN")
        return SettingEntry(variable, value, origin)


@dataclass(frozen=True, slots=True)
class _Given:
    """A value that the user set: under which name, and where."""

    value: Any = field(repr=False)
    written: str
    origin: str


_Layer = dict[SettingPath, _Given]


def load_settings(
    environ: Mapping[str, str], *, overrides: Mapping[str, object] | None = None, mask: Mask | None = None
) -> LoadedSettings:
    """
    Read and check all settings. `mask` gets to know their secrets, also if they are wrong, and those in `environ` that
    drivers read by themselves.

    `overrides` is what the command line says, by variable (`PIPELINE_JOB_CONFIG_FILE` → path); None stands
    for an option that wasn't given. Raises InvalidSettings with every fault.
    """
    faults: list[str] = []
    given = _from_environment(environ, faults) | _from_overrides(overrides or {})
    if _SETTINGS_FILE in given:
        given = _from_file(Path(given[_SETTINGS_FILE].value), faults) | given

    if mask is not None:
        _mask_secrets(given, environ, mask)

    document: dict[str, Any] = {}
    for path, setting in given.items():
        _nested(document, path[:-1])[path[-1]] = setting.value
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        faults += [_fault(given, fault["loc"], fault["msg"]) for fault in error.errors(include_input=False)]
    if faults:
        job_config = given.get(_JOB_CONFIG_FILE)
        raise InvalidSettings(faults, job_config_file=Path(str(job_config.value)) if job_config else None)

    origins = {variable_of(path): "default" for path in SETTINGS}
    origins |= {variable_of(path): setting.origin for path, setting in given.items()}
    return LoadedSettings(settings, MappingProxyType(origins))


def _mask_secrets(given: _Layer, environ: Mapping[str, str], mask: Mask) -> None:
    secrets = [str(setting.value) for path, setting in given.items() if is_secret(path)]
    openly = [str(setting.value) for path, setting in given.items() if not is_secret(path)]
    openly += [str(key.field.default) for key in SETTINGS.values() if not key.secret]
    mask.know([*secrets, *(environ.get(name, "") for name in _READ_BY_DRIVERS)], openly=openly)
    for variable in _HEADERS_OF_EXPORTERS:
        headers = (header.partition("=") for header in environ.get(variable, "").split(","))
        mask.know(
            unquote(value)
            for name, _, value in headers
            if names_a_secret(name.strip()) or len(value) >= _LENGTH_OF_A_TOKEN
        )


def _fault(given: _Layer, location: tuple[int | str, ...], message: str) -> str:
    path = tuple(str(part) for part in location)
    written = given[path].written if path in given else variable_of(path)
    return f"{written}: {message.removeprefix('Value error, ')}"


def _nested(document: dict[str, Any], path: SettingPath) -> dict[str, Any]:
    for part in path:
        document = document.setdefault(part, {})
    return document


# -- the layers ----------------------------------------------------------------------------------


def _from_overrides(overrides: Mapping[str, object]) -> _Layer:
    return {
        path_of(variable): _Given(value, f"{variable} (command line)", "command line")
        for variable, value in overrides.items()
        if value is not None
    }


def _from_environment(environ: Mapping[str, str], faults: list[str]) -> _Layer:
    layer: _Layer = {}
    for name in sorted(environ):
        # An empty variable is how compose files and shells say "not set".
        if not name.upper().startswith(PREFIX) or not environ[name]:
            continue
        path = path_of(name)
        if not is_known(path):
            unknown = _unknown_secret(path) or _unknown(name.upper(), map(variable_of, KNOWN))
            faults.append(f"{name}: {unknown}")
        elif path in layer:
            faults.append(f"{name}: set twice, also as {layer[path].written}")
        else:
            layer[path] = _Given(environ[name], name, "environment")
    return _with_secrets_read(layer, faults)


def _from_file(file: Path, faults: list[str]) -> _Layer:
    try:
        document = read_document(file)
    except UnreadableFile as error:
        faults.append(f"{variable_of(_SETTINGS_FILE)}: {error}")
        return {}
    layer: _Layer = {}
    for keys, value in _flattened(document):
        path = tuple(key.lower() for key in keys)
        written = f"{file}: {'.'.join(keys)}"
        inside = [key[len(path)] for key in KNOWN if key[: len(path)] == path and len(key) > len(path)]
        if path == _SETTINGS_FILE:
            faults.append(f"{written}: a settings file can't name another one")
        elif path in layer:
            faults.append(f"{written}: set twice, also as {layer[path].written}")
        elif is_known(path):
            if value is not None and value != "":
                layer[path] = _Given(value, written, f"file {file}")
        elif path == (NAMED_SECRETS,) and not value:
            pass
        elif not inside:
            unknown = _unknown_secret(path) or _unknown(".".join(path), map(".".join, KNOWN))
            faults.append(f"{written}: {unknown}")
        elif value:
            faults.append(f"{written}: must be a mapping of {', '.join(inside)}")
    return _with_secrets_read(layer, faults)


def _flattened(document: Mapping[Any, Any], above: SettingPath = ()) -> Iterator[tuple[SettingPath, Any]]:
    for key, value in document.items():
        path = (*above, str(key))
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, path)
        else:
            yield path, value


def _with_secrets_read(layer: _Layer, faults: list[str]) -> _Layer:
    """The layer with each `…_file` of a secret replaced by the secret that stands in that file."""
    result: _Layer = {}
    for path, pointer in layer.items():
        if (secret := secret_in_file(path)) is None:
            result[path] = pointer
            continue
        if secret in layer:
            faults.append(f"{pointer.written}: {layer[secret].written} is set too; keep one of them")
            continue
        named = str(pointer.value)
        try:
            content = read_text(Path(named)).removesuffix("\n").removesuffix("\r")
        except UnreadableFile as error:
            # Somebody may have put the secret itself here.
            looks_like_a_path = named.startswith(("/", "."))
            reason = str(error) if looks_like_a_path else str(error).replace(named, "the file that it should name")
            faults.append(f"{pointer.written}: {reason}")
            continue
        if content:
            below = "" if pointer.origin == "environment" else f", named in {pointer.origin}"
            result[secret] = _Given(content, pointer.written, f"file (secret) {pointer.value}{below}")
        else:
            faults.append(f"{pointer.written}: {pointer.value} is empty")
    return result


def _unknown_secret(path: SettingPath) -> str | None:
    """What is wrong with a path among the named secrets; None if it isn't there."""
    if path[0] != NAMED_SECRETS:
        return None
    if len(path) == 1:
        return f"must have a name for each secret, such as {variable_of((NAMED_SECRETS, 'crm_token'))}"
    return f"the name of a secret must be {NAME_RULE}"


def _unknown(wrong: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.7)
    return f"unknown setting. Did you mean {close[0]}?" if close else "unknown setting"
