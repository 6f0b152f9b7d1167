"""
Load the settings from command line, environment, settings file and defaults, in this order of precedence. This is the
only reader of the environment in the package, which it gets as a mapping.

All faults are reported at once, each under the name that the user wrote, and without secrets.

pydantic-settings isn't used because it ignores unknown variables and duplicate spellings of a variable, doesn't report
the origin of a value, has no `…_FILE` for a single secret, and takes as long to import as `--help` takes in total.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import unquote

from pydantic import ValidationError

from pipeline_processing.errors import SettingsError
from pipeline_processing.settings.keys import (
    KNOWN,
    NAME_RULE,
    NAMED_SECRETS,
    PREFIX,
    SECTIONS,
    SETTINGS,
    WEBHOOKS,
    SettingPath,
    is_secret,
    named_settings,
    path_of,
    secret_in_file,
    setting_at,
    variable_of,
)
from pipeline_processing.settings.settings import Settings
from pipeline_processing.telemetry.masking import Mask, names_a_secret

_SETTINGS_FILE: SettingPath = ("settings_file",)
_JOB_CONFIG_FILE: SettingPath = ("job_config_file",)
_READ_BY_DRIVERS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "PGPASSWORD")
_HEADERS_OF_EXPORTERS = tuple(f"OTEL_EXPORTER_OTLP_{signal}HEADERS" for signal in ("", "TRACES_", "METRICS_"))
_LENGTH_OF_A_TOKEN = 16
_PATH = re.compile(r"^https?://[^/]+/([a-z/_-]*?)/?$")


class InvalidSettings(SettingsError):
    """
    Some settings are invalid. `faults` has a line for each. `job_config_file` is set if that setting is valid, so that
    `config check` can go on to check the job config.
    """

    def __init__(self, faults: list[str], *, job_config_file: Path | None = None) -> None:
        super().__init__("The settings aren't valid:\n" + "\n".join(f"  {fault}" for fault in faults))
        self.faults = tuple(faults)
        self.job_config_file = job_config_file


class SettingEntry(NamedTuple):
    """One setting as `config show` prints it: secrets and passwords are masked, and None is "not set"."""

    variable: str
    value: str | None
    origin: str


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The settings, and the origin of each value by variable."""

    settings: Settings
    origins: Mapping[str, str]

    def entries(self) -> list[SettingEntry]:
        """Return all settings, in the order of the documentation, then those of secrets and webhooks."""
        values = {variable_of(path): key.displayed(self.settings) for path, key in SETTINGS.items()}
        named = {
            variable_of(path): key.displayed(self.settings, name=path[1]) for path, key in named_settings(self.settings)
        }
        values |= named
        origins = dict.fromkeys(named, "default") | dict(self.origins)
        if self.settings.history.dsn is None and self.settings.source.dsn is not None:
            values["PIPELINE_HISTORY__DSN"] = values["PIPELINE_SOURCE__DSN"]
            origins["PIPELINE_HISTORY__DSN"] = "default, from PIPELINE_SOURCE__DSN"
        return [SettingEntry(variable, value, origins[variable]) for variable, value in values.items()]


@dataclass(frozen=True, slots=True)
class _Given:
    """A value that the user set, with the name as written and the origin."""

    value: Any = field(repr=False)
    written: str
    origin: str


_Layer = dict[SettingPath, _Given]


def load_settings(
    environ: Mapping[str, str], *, overrides: Mapping[str, object] | None = None, mask: Mask | None = None
) -> LoadedSettings:
    """
    Read and check all settings.

    `overrides` has the command line's values by variable (`PIPELINE_JOB_CONFIG_FILE` → path); None means an option that
    wasn't given. `mask` learns all secrets, including invalid ones and those that drivers read from the environment
    themselves. Raises InvalidSettings listing all faults.
    """
    faults: list[str] = []
    given = _from_environment(environ, faults)
    for variable, value in (overrides or {}).items():
        if value is not None:
            given[path_of(variable)] = _Given(value, f"{variable} (command line)", "command line")
    if _SETTINGS_FILE in given:
        given = _from_file(Path(given[_SETTINGS_FILE].value), faults) | given

    if mask is not None:
        _mask_secrets(given, environ, mask)

    document: dict[str, Any] = {}
    for path, setting in given.items():
        section = document
        for part in path[:-1]:
            section = section.setdefault(part, {})
        section[path[-1]] = setting.value
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


def _fault(given: _Layer, location: tuple[int | str, ...], message: str) -> str:
    # A webhook without its URL or key is the only setting that may be missing.
    missing: SettingPath = tuple(map(str, location))
    path = next((path for path in given | dict.fromkeys(SETTINGS) if path == location[: len(path)]), missing)
    if path not in given and path not in SETTINGS:
        return f"{variable_of(path)}: must be set, as every webhook needs a URL and a key"
    written = given[path].written if path in given else variable_of(path)
    return f"{written}: {message.removeprefix('Value error, ')}"


def _mask_secrets(given: _Layer, environ: Mapping[str, str], mask: Mask) -> None:
    secrets = [str(setting.value) for path, setting in given.items() if is_secret(path)]
    openly = [str(setting.value) for path, setting in given.items() if not is_secret(path)]
    openly += [str(key.field.default) for key in SETTINGS.values() if not key.secret]
    openly += [_plain_path(str(setting.value)) for path, setting in given.items() if path[0] == WEBHOOKS]
    mask.know([*secrets, *(environ.get(name, "") for name in _READ_BY_DRIVERS)], openly=openly)
    for variable in _HEADERS_OF_EXPORTERS:
        headers = (header.partition("=") for header in environ.get(variable, "").split(","))
        mask.know(
            unquote(value)
            for name, _, value in headers
            if names_a_secret(name.strip()) or len(value) >= _LENGTH_OF_A_TOKEN
        )


def _plain_path(url: str) -> str:
    """Return a URL's path if it consists of plain words, as in `/hooks/runs`, and so must not be masked everywhere."""
    path = _PATH.search(url.partition("?")[0])
    return path[1] if path is not None else ""


# -- the layers ----------------------------------------------------------------------------------


def _from_environment(environ: Mapping[str, str], faults: list[str]) -> _Layer:
    layer: _Layer = {}
    for name in sorted(environ):
        # Compose files and shells use an empty variable for "not set".
        if name.upper().startswith(PREFIX) and environ[name]:
            given = _Given(environ[name], name, "environment")
            _add(layer, path_of(name), given, faults, spelled=variable_of)
    return layer


def _from_file(file: Path, faults: list[str]) -> _Layer:
    try:
        document, place = _document(file)
    except _Unreadable as error:
        faults.append(f"{variable_of(_SETTINGS_FILE)}: {error}")
        return {}
    layer: _Layer = {}
    for keys, value in _flattened(document):
        path = tuple(key.lower() for key in keys)
        given = _Given(value, f"{file}{place(keys)} {'.'.join(keys)}", f"file {file}")
        if path == _SETTINGS_FILE:
            faults.append(f"{given.written}: a settings file can't name another one")
        else:
            _add(layer, path, given, faults, spelled=".".join)
    return layer


def _flattened(document: Mapping[str, Any], above: SettingPath = ()) -> Iterator[tuple[SettingPath, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, (*above, key))
        else:
            yield (*above, key), value


def _add(
    layer: _Layer, path: SettingPath, given: _Given, faults: list[str], *, spelled: Callable[[SettingPath], str]
) -> None:
    """Add a setting, unless it is empty. The content of a secret's file replaces its name."""
    secret = secret_in_file(path)
    target = secret or path
    empty = given.value in (None, "", {})
    if target in layer and not empty:
        faults.append(f"{given.written}: {layer[target].written} is set too; keep one of them")
    elif setting_at(target) is not None:
        try:
            if not empty:
                layer[target] = given if secret is None else _secret_of_file(given)
        except _Unreadable as error:
            faults.append(f"{given.written}: {error}")
    elif not (empty and path in SECTIONS):
        faults.append(f"{given.written}: {_why_unknown(path, spelled)}")


def _why_unknown(path: SettingPath, spelled: Callable[[SettingPath], str]) -> str:
    if path == (NAMED_SECRETS,):
        return f"must have a name for each secret, such as {variable_of((NAMED_SECRETS, 'crm_token'))}"
    if path[0] == NAMED_SECRETS:
        return f"the name of a secret must be {NAME_RULE}"
    if path[0] == WEBHOOKS:
        return (
            f"a webhook has url, key and states, such as {variable_of((WEBHOOKS, 'billing', 'url'))}; its name must be "
            f"{NAME_RULE}"
        )
    if below := [spelled(known) for known in KNOWN if known[: len(path)] == path]:
        return f"is a group of settings: {', '.join(below)}"
    close = difflib.get_close_matches(spelled(path), map(spelled, KNOWN), n=1, cutoff=0.7)
    return f"unknown setting. Did you mean {close[0]}?" if close else "unknown setting"


# -- files ---------------------------------------------------------------------------------------


class _Unreadable(Exception):
    """A file can't be used. The message gives the cause, and quotes nothing of the content."""


def _secret_of_file(pointer: _Given) -> _Given:
    """Read the secret from the file that `pointer` names. Raises _Unreadable."""
    named = str(pointer.value)
    try:
        content = _text(Path(named)).removesuffix("\n").removesuffix("\r")
    except _Unreadable as error:
        if named.startswith(("/", ".")):
            raise
        # The user may have put the secret itself here, so don't quote it.
        raise _Unreadable(str(error).replace(named, "the file that it should name")) from None
    if not content:
        raise _Unreadable(f"{named} is empty")
    below = "" if pointer.origin == "environment" else f", named in {pointer.origin}"
    return _Given(content, pointer.written, f"file (secret) {named}{below}")


def _document(file: Path) -> tuple[dict[str, Any], Callable[[SettingPath], str]]:
    """
    Parse a YAML or TOML file, according to its suffix. Raises _Unreadable.

    Also returns a function that tells the place of a key, for messages: `:3:5`, or just `:` in TOML.
    """
    content, suffix = _text(file), file.suffix.lower()
    if suffix == ".toml":
        try:
            return tomllib.loads(content), lambda keys: ":"
        except tomllib.TOMLDecodeError as error:
            where = re.search(r"\(at [^)]*\)$", str(error))
            raise _Unreadable(f"{file} isn't valid TOML {where[0] if where else ''}".rstrip()) from None
    if suffix not in (".yaml", ".yml"):
        raise _Unreadable(f"{file} must end in .yaml, .yml or .toml, which says how to read it")
    # Imported here, because most services are configured by environment, and commands should start quickly.
    from pipeline_processing.options.yaml_documents import InvalidYaml, parse_yaml

    try:
        document = parse_yaml(content)
    except InvalidYaml as error:
        raise _Unreadable(f"{file} isn't valid YAML {error.without_content}".rstrip()) from None
    if not isinstance(document.value, dict | None):
        raise _Unreadable(f"{file} must be a mapping of settings")

    def place(keys: SettingPath) -> str:
        _, at = document.locate(keys, at_key=True)
        return f":{at.line}:{at.column}"

    return document.value or {}, place


def _text(file: Path) -> str:
    """Read a UTF-8 file. Raises _Unreadable."""
    try:
        return file.read_text("utf-8")
    except OSError as error:
        raise _Unreadable(f"can't read {file}: {error.strerror}") from None
    except ValueError:
        raise _Unreadable(f"can't read {file}: it isn't UTF-8 text") from None
