"""The tables and views of a database that this role may read, for a draft of a job config."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline_processing.postgres.client import DatabaseClient

_TABLES = """
SELECT n.nspname AS schema,
       c.relname AS name,
       pg_table_is_visible(c.oid) AS visible,
       c.reltuples::bigint AS rows,
       ARRAY(SELECT a.attname FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS columns,
       ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS types,
       ARRAY(SELECT a.attname FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
             JOIN pg_attribute a ON a.attnum = k.attnum
             WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid ORDER BY k.place) AS key
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND NOT c.relispartition
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND n.nspname !~ '^pg_(toast|temp)'
  AND (SELECT count(*) FROM pg_class h
       WHERE h.relnamespace = n.oid AND h.relname IN ('installation', 'runs', 'run_attempts')) < 3
  AND has_schema_privilege(n.oid, 'USAGE')
  AND has_table_privilege(c.oid, 'SELECT')
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY n.nspname, c.relname
"""


@dataclass(frozen=True, slots=True)
class CatalogueTable:
    """A table or view."""

    schema: str
    name: str
    visible: bool
    """Whether its name alone finds it, without the schema."""
    rows: int
    """Postgres's estimate; -1 if there is none."""
    columns: dict[str, str]
    """Name → type, as Postgres prints it, in order."""
    key: tuple[str, ...]
    """The columns of the primary key."""


async def readable_tables(database: DatabaseClient) -> Sequence[CatalogueTable]:
    """
    Return the tables and views that this role may read, by schema and name. Partitions, tables of extensions and
    schemas of run histories are left out.

    Raises AccessDenied or a TransientError.
    """
    async with database.connection() as connection, connection.transaction(readonly=True):
        found = await connection.fetch(_TABLES)
    return [
        CatalogueTable(
            schema=each["schema"],
            name=each["name"],
            visible=each["visible"],
            rows=each["rows"],
            columns=dict(zip(each["columns"], each["types"], strict=True)),
            key=tuple(each["key"]),
        )
        for each in found
    ]
