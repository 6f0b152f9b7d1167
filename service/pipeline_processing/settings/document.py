"""Reads a settings file, or the file of one secret. No message repeats any of their content."""

import re
import tomllib
from pathlib import Path
from typing import Any


class UnreadableFile(Exception):
    """A file can't be used; the message says why."""


def read_document(file: Path) -> dict[str, Any]:
    """A YAML or TOML file, told apart by suffix. Raises UnreadableFile."""
    content = read_text(file)
    suffix = file.suffix.lower()
    if suffix == ".toml":
        try:
            return tomllib.loads(content)
        except tomllib.TOMLDecodeError as error:
            where = re.search(r"\(at [^)]*\)$", str(error))
            raise UnreadableFile(f"{file} isn't valid TOML {where[0] if where else ''}".rstrip()) from None
    if suffix not in (".yaml", ".yml"):
        raise UnreadableFile(f"{file} must end in .yaml, .yml or .toml, which says how to read it")
    import yaml  # only here: most services are set up by environment, and commands should start quickly

    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-13-45
        mark = getattr(error, "problem_mark", None)
        where_yaml = f" (at line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise UnreadableFile(f"{file} isn't valid YAML{where_yaml}") from None
    if not isinstance(document, dict | None):
        raise UnreadableFile(f"{file} must be a mapping of settings")
    return document or {}


def read_text(file: Path) -> str:
    """All of a UTF-8 file. Raises UnreadableFile."""
    try:
        return file.read_text("utf-8")
    except OSError as error:
        raise UnreadableFile(f"can't read {file}: {error.strerror}") from None
    except ValueError:
        raise UnreadableFile(f"can't read {file}: it isn't UTF-8 text") from None
