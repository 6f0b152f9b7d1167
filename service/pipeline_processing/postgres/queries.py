"""
Named queries in SQL files. Each query follows a line `-- name: NAME` and at least one line of description.

A parameter is written `:name`. asyncpg accepts only `$1`, `$2`, …, so names are replaced by numbers at load time.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_DESCRIPTION = re.compile(r"\A(?:-- .*\n)+")
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")  # but not the cast `::text`


@dataclass(frozen=True, slots=True)
class Query:
    """One query. Call it with its parameters to get the SQL and its arguments, as asyncpg's methods take them."""

    name: str
    description: str
    sql: str
    parameters: tuple[str, ...]

    def __call__(self, **values: Any) -> tuple[Any, ...]:
        if values.keys() != set(self.parameters):
            raise TypeError(f"Query {self.name!r} takes {sorted(self.parameters)}, not {sorted(values)}.")
        return (self.sql, *(values[parameter] for parameter in self.parameters))


def parse_queries(text: str) -> Mapping[str, Query]:
    """Return the queries by name. Raises ValueError for a duplicate name, or a query without a description."""
    _, *parts = _NAME.split(text)
    queries: dict[str, Query] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        description = _DESCRIPTION.match(body)
        if name in queries or description is None:
            raise ValueError(f"Query {name!r} needs a unique name and a line of description.")
        queries[name] = _query(name, description.group(), body[description.end() :].strip())
    return queries


def load_queries(package: str, name: str) -> Mapping[str, Query]:
    """Return the queries of an SQL file in a package, by name."""
    return parse_queries(files(package).joinpath(name).read_text(encoding="utf-8"))


def _query(name: str, description: str, sql: str) -> Query:
    parameters = tuple(dict.fromkeys(_PARAMETER.findall(sql)))
    numbered = _PARAMETER.sub(lambda found: f"${parameters.index(found.group(1)) + 1}", sql)
    return Query(name=name, description=description.replace("-- ", "").strip(), sql=numbered, parameters=parameters)
