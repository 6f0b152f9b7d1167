"""
The history's schema: numbered SQL files, applied in order.

Each is one transaction that also notes its version, under a lock keyed by schema, so that several processes may
migrate at once and any of them may die.

A migration may add columns, but never change the type or the place of one: workers of the version before go on
meanwhile, and read rows by the description that they have.
"""

import re
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from pipeline_processing.errors import DatabaseMisconfigured, HistoryTooNew
from pipeline_processing.postgres.client import quoted

_FILE = re.compile(r"(\d{4})_(\w+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step from the version before to `version`."""

    version: int
    name: str
    sql: str


def load_migrations() -> tuple[Migration, ...]:
    """All that this service knows, in order."""
    found = [
        Migration(version=int(match[1]), name=match[2], sql=file.read_text(encoding="utf-8"))
        for file in files(__package__).joinpath("migrations").iterdir()
        if (match := _FILE.fullmatch(file.name))
    ]
    return tuple(sorted(found, key=lambda migration: migration.version))


MIGRATIONS = load_migrations()


async def current_version(connection: asyncpg.Connection, schema: str) -> int:
    """The schema's version; 0 if there is no history yet."""
    table = f"{quoted(schema)}.schema_migrations"
    if await connection.fetchval("SELECT to_regclass($1)", table) is None:
        return 0
    version = await connection.fetchval(f"SELECT coalesce(max(version), 0) FROM {table}")  # noqa: S608 - quoted
    return int(version)


async def check_encoding(connection: asyncpg.Connection) -> None:
    """Raises DatabaseMisconfigured unless the database can store any text."""
    encoding, database = await connection.fetchrow("SELECT current_setting('server_encoding'), current_database()")
    if encoding != "UTF8":
        raise DatabaseMisconfigured(
            f"The run history's database {database!r} has the encoding {encoding}, in which not every request can be "
            "stored. Create one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, copy the history's schema "
            "to it with pg_dump if there is one, and set PIPELINE_HISTORY__DSN to it."
        )


async def pending(
    connection: asyncpg.Connection, schema: str, *, migrations: tuple[Migration, ...] = MIGRATIONS
) -> tuple[Migration, ...]:
    """
    What is still to be applied. Raises HistoryTooNew when the schema is ahead of this service, and
    DatabaseMisconfigured for a database whose encoding isn't UTF-8.
    """
    await check_encoding(connection)
    version = await current_version(connection, schema)
    known = migrations[-1].version
    if version > known:
        raise HistoryTooNew(schema, version=version, known=known)
    return tuple(migration for migration in migrations if migration.version > version)


async def migrate(
    connection: asyncpg.Connection, schema: str, *, migrations: tuple[Migration, ...] = MIGRATIONS
) -> tuple[Migration, ...]:
    """
    Create the schema or bring it up to date; what was applied here.

    Raises HistoryTooNew, and AccessDenied where the user may not create what is missing.
    """
    applied: list[Migration] = []
    while True:
        async with connection.transaction():
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended('pipeline-processing migrate ' || $1, 0))", schema
            )
            missing = await pending(connection, schema, migrations=migrations)
            if not missing:
                return tuple(applied)
            await _apply(connection, schema, missing[0])
        applied.append(missing[0])


async def _apply(connection: asyncpg.Connection, schema: str, migration: Migration) -> None:
    # Looked up first: IF NOT EXISTS asks for the right to create even where nothing is to be created.
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema):
        await connection.execute(f"CREATE SCHEMA {quoted(schema)}")
    await connection.execute("SELECT set_config('search_path', $1, true)", quoted(schema))
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations ("
        "version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
    )
    await connection.execute(migration.sql)
    await connection.execute(
        "INSERT INTO schema_migrations (version, name) VALUES ($1, $2)", migration.version, migration.name
    )
