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

from pipeline_processing.postgres.errors import Fault, cause_of, fault_of
from pipeline_processing.postgres.query_text import placeholders_in, without_semicolon
from pipeline_processing.sources.postgres.copy_batches import ignored
from pipeline_processing.sources.postgres.shape import Shape, cannot_plan
from pipeline_processing.sources.postgres.types import carried_as

_TYPE_NAMES = "SELECT array_agg(format_type(oid, -1) ORDER BY nr) FROM unnest($1::oid[]) WITH ORDINALITY AS p (oid, nr)"
"""Without a type modifier, -1 differs from NULL: `character` means character(1), but `bpchar` has any length."""
_FIRST_OF_USERS = 16384
"""Types with a smaller OID are built in, and keep their names."""
_UNSURE = "the places of its parameters are not certain"

_FAULTS_OF_QUERY = (Fault.INVALID, Fault.FAILED, Fault.ACCESS)
_OF_THE_MOMENT = ("57014", "25P04")
"""SQLSTATEs among them that a cursor would not avoid: cancellation and timeouts."""


class NotCopied(Exception):
    """COPY can't read the query. The text gives the reason; `lasts` says whether it holds for other runs too."""

    def __init__(self, reason: str, *, lasts: bool = True) -> None:
        super().__init__(reason)
        self.lasts = lasts


@dataclass(frozen=True, slots=True)
class CopyStatement:
    """A query that COPY can read. `types` are the types of its columns as they arrive."""

    types: tuple[str, ...]
    _texts: tuple[str, ...]
    """The query's text before, between and after its placeholders."""
    _numbers: tuple[int, ...]
    """The parameters' numbers, in the order of the placeholders."""
    _parameters: tuple[int, ...]
    """The OIDs of the parameters' types."""
    _built_in: tuple[str, ...] | None
    """The names of these types if all of them are built in. Others may get another name at any time."""

    async def placed(self, connection: asyncpg.Connection, values: Sequence[Any]) -> tuple[str, float | None]:
        """
        Return the query with its arguments, and the statement_timeout (in seconds) of the session, which is off from
        now on: see `CopyBatches`. `values` are bound as if the query itself was run.
        """
        names = await self._type_names(connection)
        literals = ", ".join(f"format('%L', {_cast(f'${n}', name)})" for n, name in enumerate(names, 1))
        # asyncpg keeps statements by their text. With the OIDs in it, a new type of an old name has its own.
        oids = "" if self._built_in is not None else f" /* {self._parameters} */"
        timeout, _, quoted = await connection.fetchrow(
            "SELECT extract(epoch FROM current_setting('statement_timeout')::interval)::text,"  # noqa: S608 names of types
            f" set_config('statement_timeout', '0', true), ARRAY[{literals}]::text[]{oids}",
            *values,
        )
        return self._filled(names, lambda _, number: quoted[number - 1]), float(timeout) or None

    async def _type_names(self, connection: asyncpg.Connection) -> Sequence[str]:
        if self._built_in is not None:
            return self._built_in
        return await _type_names(connection, self._parameters)

    def _filled(self, types: Sequence[str], value: Callable[[int, int], str]) -> str:
        """
        Return the query's text with `value(place, number)` for each placeholder. Places are counted from 1; `types` are
        the names of the parameters' types.
        """
        pieces = [self._texts[0]]
        for place, (number, text) in enumerate(zip(self._numbers, self._texts[1:], strict=True), 1):
            # The brackets are for what may follow, such as a subscript.
            pieces += (f"({_cast(value(place, number), types[number - 1])})", text)
        return "".join(pieces)


async def copy_statement(
    connection: asyncpg.Connection, shape: Shape, carry: str, values: Sequence[Any], *, savepoint: str
) -> CopyStatement:
    """
    Make a query's COPY statement, and let Postgres plan it with these values. Raises NotCopied if Postgres refuses it.

    Whatever it raises, the transaction is aborted.
    """
    _, carried = shape.carried(carry)
    query = without_semicolon(carried)
    placeholders = placeholders_in(query)
    if placeholders is None or any(each.number > len(shape.parameters) for each in placeholders):
        raise NotCopied(_UNSURE)
    cuts = [0, *(at for each in placeholders for at in each[1:]), len(query)]
    parameters = tuple(each.oid for each in shape.parameters)
    try:
        built_in = max(parameters, default=0) < _FIRST_OF_USERS
        names = await _type_names(connection, parameters)
        statement = CopyStatement(
            types=tuple(_types_as_carried(shape, carry)),
            _texts=tuple(query[start:end] for start, end in list(pairwise(cuts))[::2]),
            _numbers=tuple(each.number for each in placeholders),
            _parameters=parameters,
            _built_in=tuple(names) if built_in else None,
        )
        if placeholders:
            await _confirm_places(connection, statement, names, shape, carry)
        placed, _ = await statement.placed(connection, values)
        await connection.execute(f"ROLLBACK TO SAVEPOINT {savepoint}")  # with it, statement_timeout is back
        # Postgres plans the whole statement for it, which may call functions with these values, but doesn't run the
        # query. The text is the user's query.
        await connection.copy_from_query(
            f"SELECT * FROM (\n{placed}\n) AS q LIMIT 0",  # noqa: S608 see above
            output=ignored,
            format="binary",
        )
    except asyncpg.PostgresError as error:
        if fault_of(error) not in _FAULTS_OF_QUERY or error.sqlstate in _OF_THE_MOMENT:
            raise
        # Data exceptions may be due to the values, as may errors with a context, which functions raise.
        lasts = cannot_plan(error) and not (error.sqlstate.startswith("22") or getattr(error, "context", None))
        raise NotCopied(cause_of(error), lasts=lasts) from error
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


async def _confirm_places(
    connection: asyncpg.Connection, statement: CopyStatement, names: Sequence[str], shape: Shape, carry: str
) -> None:
    """Let Postgres tell whether all placeholders are parameters, and whether literals leave the columns as they are."""
    prepared = await connection.prepare(statement._filled(names, lambda place, _: f"${place}"))
    found = [each.oid for each in prepared.get_parameters()]
    if found != [shape.parameters[number - 1].oid for number in statement._numbers]:
        raise NotCopied(_UNSURE)
    for column, name, of_query in zip(prepared.get_attributes(), shape.names, shape.types, strict=True):
        is_carried = carried_as(of_query, carry, is_enum=of_query.oid in shape.enums) is not None
        if column.name != name or (is_carried and column.type.oid != of_query.oid):
            raise NotCopied(f"its column {name!r} depends on a parameter; name it with AS")


def _cast(value: str, type_name: str) -> str:
    return f"CAST({value} AS {type_name})"
