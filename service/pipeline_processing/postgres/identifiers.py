"""Names of tables and columns, and text, in SQL."""

from typing import Annotated

from pydantic import AfterValidator

_LONGEST = 63
"""Bytes. Postgres truncates longer names, and then may find another table or column."""


def quoted(identifier: str) -> str:
    """Return the identifier, quoted for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return text as an untyped literal, for servers with `standard_conforming_strings`."""
    return "'" + text.replace("'", "''") + "'"


def _checked(name: str) -> str:
    if not name or "\0" in name or len(name.encode(errors="replace")) > _LONGEST:
        raise ValueError(f"must be a name as Postgres has it, without quotes: 1 to {_LONGEST} bytes")
    return name


Identifier = Annotated[str, AfterValidator(_checked)]
"""A name in a config, as Postgres has it, without quotes."""
