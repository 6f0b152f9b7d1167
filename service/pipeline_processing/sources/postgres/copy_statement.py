"""
Makes a COPY statement of a query. COPY takes no parameters, so their values become literals in its text.

A tokeniser finds the placeholders, and Postgres confirms each of them: it prepares the statement with every literal
replaced by a parameter of its own, and must find just as many. So none of them is part of a string or a comment,
however the tokeniser read it. Postgres also quotes the values, and each literal has an explicit cast.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import asyncpg

from pipeline_processing.postgres.errors import cause_of
from pipeline_processing.sources.postgres.query_text import placeholders_in, without_semicolon
from pipeline_processing.sources.postgres.shape import Shape, cannot_plan
from pipeline_processing.sources.postgres.types import carried_as

_TYPE_NAMES = "SELECT array_agg(format_type(oid, -1) ORDER BY nr) FROM unnest($1::oid[]) WITH ORDINALITY AS p (oid, nr)"
"""Without a type modifier, -1 differs from NULL: `character` means character(1), but `bpchar` has any length."""
_UNSURE = "the places of its parameters are not certain"


class NotCopied(Exception):
    """COPY can't read the query. The text gives the reason."""


@dataclass(frozen=True, slots=True)
class CopyStatement:
    """A query that COPY can read. `types` are the types of its columns as they arrive."""

    types: tuple[str, ...]
    _texts: tuple[str, ...]
    """The query's text before, between and after its placeholders."""
    _numbers: tuple[int, ...]
    """The parameters' numbers, in the order of the placeholders."""
    _parameter_types: tuple[str, ...]

    async def placed(self, connection: asyncpg.Connection, values: Sequence[Any]) -> tuple[str, float | None]:
        """
        Return the query with its arguments, and the statement_timeout (in seconds) of the session, which is off from
        now on: see `CopyBatches`. `values` are bound as if the query itself was run.
        """
        literals = ", ".join(f"format('%L', {_cast(f'${n}', name)})" for n, name in enumerate(self._parameter_types, 1))
        timeout, _, quoted = await connection.fetchrow(
            "SELECT extract(epoch FROM current_setting('statement_timeout')::interval)::text,"  # noqa: S608 names of types
            f" set_config('statement_timeout', '0', true), ARRAY[{literals}]::text[]",
            *values,
        )
        return self._filled(lambda _, number: quoted[number - 1]), float(timeout) or None

    def _filled(self, value: Callable[[int, int], str]) -> str:
        """Return the query's text with `value(place, number)` for each placeholder. Places are counted from 1."""
        pieces = [self._texts[0]]
        for place, (number, text) in enumerate(zip(self._numbers, self._texts[1:], strict=True), 1):
            # The brackets are for what may follow, such as a subscript.
            pieces += (f"({_cast(value(place, number), self._parameter_types[number - 1])})", text)
        return "".join(pieces)


async def copy_statement(connection: asyncpg.Connection, shape: Shape, carry: str) -> CopyStatement:
    """
    Make a query's COPY statement, and let Postgres plan it. Raises NotCopied if Postgres refuses it.

    Whatever it raises, the transaction is aborted.
    """
    _, carried = shape.carried(carry)
    query = without_semicolon(carried)
    placeholders = placeholders_in(query)
    if placeholders is None or any(each.number > len(shape.parameters) for each in placeholders):
        raise NotCopied(_UNSURE)
    cuts = [0, *(at for each in placeholders for at in each[1:]), len(query)]
    try:
        statement = CopyStatement(
            types=tuple(_types_as_carried(shape, carry)),
            _texts=tuple(query[start:end] for start, end in list(pairwise(cuts))[::2]),
            _numbers=tuple(each.number for each in placeholders),
            _parameter_types=tuple(await _type_names(connection, [each.oid for each in shape.parameters])),
        )
        if placeholders:
            await _confirm_places(connection, statement, shape, carry)
        nothing = statement._filled(lambda *_: "NULL")
        # Postgres plans the whole statement for it, but doesn't run the query. The text is the user's query.
        await connection.copy_from_query(
            f"SELECT * FROM (\n{nothing}\n) AS q LIMIT 0",  # noqa: S608 see above
            output=_ignored,
            format="binary",
        )
    except asyncpg.PostgresError as error:
        if cannot_plan(error):
            raise NotCopied(cause_of(error)) from error
        raise
    return statement


def _types_as_carried(shape: Shape, carry: str) -> Sequence[str]:
    rendered = "json" if carry == "json" else "text"
    return [
        rendered
        if carried_as(each, carry, is_enum=each.oid in shape.enums) is None
        else "text"
        if each.oid in shape.enums
        else each.name
        for each in shape.types
    ]


async def _type_names(connection: asyncpg.Connection, oids: Sequence[int]) -> Sequence[str]:
    if not oids:
        return ()
    names: Sequence[str] = await connection.fetchval(_TYPE_NAMES, oids)
    return names


async def _confirm_places(connection: asyncpg.Connection, statement: CopyStatement, shape: Shape, carry: str) -> None:
    """Let Postgres tell whether all placeholders are parameters, and whether literals leave the columns as they are."""
    prepared = await connection.prepare(statement._filled(lambda place, _: f"${place}"))
    found = [each.oid for each in prepared.get_parameters()]
    if found != [shape.parameters[number - 1].oid for number in statement._numbers]:
        raise NotCopied(_UNSURE)
    for column, name, of_query in zip(prepared.get_attributes(), shape.names, shape.types, strict=True):
        is_carried = carried_as(of_query, carry, is_enum=of_query.oid in shape.enums) is not None
        if column.name != name or (is_carried and column.type.oid != of_query.oid):
            raise NotCopied(f"its column {name!r} depends on a parameter; name it with AS")


def _cast(value: str, type_name: str) -> str:
    return f"CAST({value} AS {type_name})"


async def _ignored(data: bytes) -> None:
    """Take what COPY sends before the first row."""
