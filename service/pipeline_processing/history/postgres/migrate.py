"""
Migrate the history's schema: numbered SQL files, applied in order.

Each file is applied in one transaction, which also stores its version, under a lock keyed by schema. So several
processes may migrate concurrently, and a crash leaves no half-applied migration.

A migration may add columns, but must never change the type or position of a column: workers of the previous version
keep running, and have prepared statements for the old columns. `tests/contract/run_store/previous` holds their queries:
renew it with each migration.
"""

import re
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from pipeline_processing.errors import DatabaseMisconfigured, HistoryTooNew
from pipeline_processing.postgres.identifiers import quoted

_FILE = re.compile(r"(\d{4})_(\w+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """The SQL that migrates from the previous version to `version`."""

    version: int
    name: str
    sql: str


def load_migrations() -> tuple[Migration, ...]:
    """Return all migrations of this service, in order."""
    found = [
        Migration(version=int(match[1]), name=match[2], sql=file.read_text(encoding="utf-8"))
        for file in files(__package__).joinpath("migrations").iterdir()
        if (match := _FILE.fullmatch(file.name))
    ]
    return tuple(sorted(found, key=lambda migration: migration.version))


MIGRATIONS = load_migrations()


async def current_version(connection: asyncpg.Connection, schema: str) -> int:
    """Return the schema's version; 0 if there is no history yet."""
    table = f"{quoted(schema)}.schema_migrations"
    if await connection.fetchval("SELECT to_regclass($1)", table) is None:
        return 0
    version = await connection.fetchval(f"SELECT coalesce(max(version), 0) FROM {table}")  # noqa: S608 - quoted
    return int(version)


async def check_encoding(connection: asyncpg.Connection) -> None:
    """Raise DatabaseMisconfigured unless the database can store all of Unicode."""
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
    Return the migrations that have yet to be applied.

    Raises HistoryTooNew if the schema is ahead of this service, or DatabaseMisconfigured if the encoding isn't UTF-8.
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
    Create the schema or bring it up to date. Returns the migrations applied by this call.

    Raises HistoryTooNew, or AccessDenied if the user lacks the privileges to create objects.
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
    # Checked first: IF NOT EXISTS needs the CREATE privilege even when the schema exists.
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
