"""The history's schema: created, upgraded and checked, by however many processes at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from pipeline_processing.errors import AccessDenied, HistoryOutdated, HistoryTooNew, HistoryUnavailable
from pipeline_processing.history.postgres.migrate import MIGRATIONS, Migration, current_version, migrate, pending
from pipeline_processing.model import JobRequest
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.postgres.identifiers import quoted
from pipeline_processing.runs.completions import RunCompletion
from pipeline_processing.runs.store import Incoming
from tests.contract.run_store.conftest import PostgresBackend, postgres_backend
from tests.contract.run_store.helpers import PLAN, TRACE, claimed, events, message

NEXT = Migration(
    version=MIGRATIONS[-1].version + 1,
    name="next",
    sql="ALTER TABLE runs ADD COLUMN next text; CREATE TABLE next AS SELECT 1 AS one;",
)
BROKEN = Migration(version=NEXT.version, name="broken", sql="CREATE TABLE half (id int); SELECT 1 / 0;")


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(database)
    yield opened
    await opened.close()


async def shape(connection: asyncpg.Connection, schema: str) -> Any:
    """Tables, columns, constraints and indexes, and what was applied."""
    described = [
        "SELECT table_name, column_name, data_type, is_nullable, replace(column_default, $1, '') "
        "FROM information_schema.columns WHERE table_schema = $1 ORDER BY 1, ordinal_position",
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = to_regnamespace(quote_ident($1)) ORDER BY 1, 2",
        "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = $1 ORDER BY 1, 2",
        "SELECT sequencename FROM pg_sequences WHERE schemaname = $1 ORDER BY 1",
    ]
    found = [[tuple(row) for row in await connection.fetch(sql, schema)] for sql in described]
    versions = await connection.fetch(f"SELECT version, name FROM {quoted(schema)}.schema_migrations ORDER BY 1")
    return str(found).replace(schema, "schema").replace(schema.replace('"', '""'), "schema"), versions


async def test_a_fresh_schema_has_every_version(connection: asyncpg.Connection, schema: str) -> None:
    """Created where it is missing; nothing is written elsewhere, and the session is as before."""
    before = await connection.fetchval("SHOW search_path")
    assert await current_version(connection, schema) == 0
    assert await pending(connection, schema) == MIGRATIONS

    assert await migrate(connection, schema) == MIGRATIONS

    assert await current_version(connection, schema) == MIGRATIONS[-1].version
    assert await pending(connection, schema) == ()
    assert await connection.fetchval("SHOW search_path") == before
    assert await connection.fetchval("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0


async def test_migrating_again_does_nothing(connection: asyncpg.Connection, schema: str) -> None:
    """And the installation keeps its id."""
    await migrate(connection, schema)
    first = await connection.fetchval(f"SELECT installation_id FROM {quoted(schema)}.installation")

    assert await migrate(connection, schema) == ()
    assert await connection.fetchval(f"SELECT installation_id FROM {quoted(schema)}.installation") == first


async def test_indexes_may_exist_beforehand(connection: asyncpg.Connection, schema: str) -> None:
    """Created on the previous version's history as operations.md says, they are those that a migration creates."""
    await migrate(connection, schema)
    usual = await shape(connection, schema)
    await connection.execute(f"DROP SCHEMA {quoted(schema)} CASCADE")
    await migrate(connection, schema, migrations=MIGRATIONS[:5])

    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text("utf-8")
    block = page.partition("```sql\nSET search_path TO pipeline;")[2].partition("```")[0].partition("\n")[2]
    statements = block.strip().removesuffix(";").split(";\n")
    assert len(statements) == 6
    for statement in (f"SET search_path TO {quoted(schema)}", *statements, "RESET search_path"):
        await connection.execute(statement)
    await migrate(connection, schema)

    assert await shape(connection, schema) == usual


async def test_many_processes_may_migrate_at_once(connection: asyncpg.Connection, database: str, schema: str) -> None:
    """Each version is applied by one of them, and none of them fails."""
    others = [await asyncpg.connect(database) for _ in range(8)]
    try:
        applied = await asyncio.gather(*(migrate(each, schema, migrations=(*MIGRATIONS, NEXT)) for each in others))
    finally:
        await asyncio.gather(*(each.close() for each in others))

    assert sorted(m.version for each in applied for m in each) == [m.version for m in (*MIGRATIONS, NEXT)]
    assert await current_version(connection, schema) == NEXT.version


@pytest.mark.parametrize("version", range(1, NEXT.version), ids=lambda version: f"from_{version}")
async def test_an_upgraded_schema_equals_a_fresh_one(connection: asyncpg.Connection, schema: str, version: int) -> None:
    """From every earlier version, with a run in it that is there afterwards."""
    known = (*MIGRATIONS, NEXT)
    upgraded, fresh = f"{schema} upgraded", f"{schema} fresh"
    await migrate(connection, upgraded, migrations=known[:version])
    await connection.execute(f"INSERT INTO {quoted(upgraded)}.agencies VALUES (7)")

    assert await migrate(connection, upgraded, migrations=known) == known[version:]

    await migrate(connection, fresh, migrations=known)
    shapes = [str(await shape(connection, each)).replace(each, "") for each in (upgraded, fresh)]
    assert shapes[0].replace("upgraded", "fresh") == shapes[1]
    assert await connection.fetchval(f"SELECT agency_id FROM {quoted(upgraded)}.agencies") == 7


async def test_migrations_only_expand(connection: asyncpg.Connection, schema: str) -> None:
    """Workers of the previous version keep running: what they read stays, what they write is enough."""
    query = (
        "SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, "
        "a.atthasdef OR a.attidentity <> '' AS has_default "
        "FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'r' "
        "WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND a.attnum > 0"
    )
    checks = (
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = to_regnamespace(quote_ident($1)) AND contype <> 'n'"
    )
    columns: set[tuple[Any, ...]] = set()
    constraints: set[tuple[Any, ...]] = set()
    for migration in MIGRATIONS:
        await migrate(connection, schema, migrations=MIGRATIONS[: migration.version])
        found = {tuple(row) for row in await connection.fetch(query, schema)}
        asked = {tuple(row) for row in await connection.fetch(checks, schema)}
        known = {column[0] for column in columns}

        assert columns <= found, f"{migration.name} changes or drops a column"
        assert all(not required or default for table, *_, required, default in found - columns if table in known)
        assert {each for each in asked if each[0].split(".")[-1] in known} <= constraints
        columns, constraints = found, asked


async def test_a_migration_is_applied_whole_or_not_at_all(connection: asyncpg.Connection, schema: str) -> None:
    """One that fails leaves the versions before it, and can be tried again."""
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(connection, schema, migrations=(*MIGRATIONS, BROKEN))

    assert await current_version(connection, schema) == MIGRATIONS[-1].version
    assert await connection.fetchval("SELECT to_regclass($1)", f"{quoted(schema)}.half") is None
    assert await migrate(connection, schema, migrations=(*MIGRATIONS, NEXT)) == (NEXT,)


BEFORE_LABELS = MIGRATIONS[:5]
PREPARED_BEFORE_LABELS = f"""
    INSERT INTO agencies VALUES (7);
    INSERT INTO runs (run_id, job, agency_id, state, attempt, fence, request, request_hash, dry_run, priority, trace_id)
    VALUES ('r', 'agency_data_job', 7, 'prepared', 1, 1, '{{"agency_id": 7}}', '{JobRequest(agency_id=7).digest()}',
            false, 0, '{TRACE}');
    INSERT INTO plans VALUES ('r', 1, '{PLAN.model_dump_json()}')
"""


async def test_a_run_decided_before_an_upgrade_is_published_after_it(
    connection: asyncpg.Connection, database: str, schema: str
) -> None:
    """With its stored bytes. Its request, delivered again, is still the same."""
    await migrate(connection, schema, migrations=BEFORE_LABELS)
    await connection.execute(f"SET search_path TO {quoted(schema)}; {PREPARED_BEFORE_LABELS}")
    await migrate(connection, schema)

    async with postgres_backend(database, schema) as backend:
        assert (await backend.runs.intake.accept(message("r"))).labels == {}
        claim = await claimed(backend.runs)
        assert await backend.runs.attempts.plan(claim) == PLAN
        await backend.runs.attempts.succeed(claim)
        [(_, completion)] = await events(backend, "r")
    assert isinstance(completion, RunCompletion)
    assert (completion.state, completion.labels) == ("succeeded", {})


async def test_a_newer_schema_is_refused(connection: asyncpg.Connection, schema: str) -> None:
    """Whoever runs an older service is told to upgrade it, and nothing is changed."""
    await migrate(connection, schema, migrations=(*MIGRATIONS, NEXT))

    with pytest.raises(HistoryTooNew, match="Upgrade this service") as refused:
        await migrate(connection, schema)
    assert refused.value.exit_code == 78
    with pytest.raises(HistoryTooNew):
        await pending(connection, schema)


async def test_two_histories_live_side_by_side(connection: asyncpg.Connection, schema: str) -> None:
    """Each schema has its own version and its own installation."""
    other = f"{schema} too"
    await migrate(connection, schema)
    assert await current_version(connection, other) == 0
    await migrate(connection, other)

    ids = [await connection.fetchval(f"SELECT installation_id FROM {quoted(s)}.installation") for s in (schema, other)]
    assert ids[0] != ids[1]


async def test_migrations_are_numbered_without_gaps() -> None:
    """From 1 on, each with its own name."""
    assert [migration.version for migration in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))
    assert len({migration.name for migration in MIGRATIONS}) == len(MIGRATIONS)


async def test_a_history_that_is_not_there_asks_for_migrate(database: str, schema: str) -> None:
    """The run store names the command, and the exit code is that of wrong settings."""
    async with postgres_backend(database, schema) as backend:
        with pytest.raises(HistoryOutdated, match="pipeline-processing migrate") as refused:
            await backend.runs.history.get("r")
    assert refused.value.exit_code == 78
    assert refused.value.kind == "history_outdated"


async def test_an_older_history_asks_for_migrate(on_postgres: PostgresBackend) -> None:
    """One without a column that this version needs."""
    await on_postgres.execute("ALTER TABLE runs RENAME priority TO urgency")

    with pytest.raises(HistoryOutdated, match="priority"):
        await on_postgres.runs.intake.accept(
            Incoming(JobRequest(agency_id=7), run_id="r", trace_id="0" * 32, span_id="0" * 16)
        )


async def test_a_user_without_rights_needs_none_once_migrated(
    connection: asyncpg.Connection, database: str, schema: str
) -> None:
    """A worker may check the schema with no right to create anything; creating one is refused with a clear error."""
    await connection.execute("DROP ROLE IF EXISTS runstore_worker")
    await connection.execute("CREATE ROLE runstore_worker LOGIN")
    try:
        await migrate(connection, schema)
        await connection.execute(f"GRANT USAGE ON SCHEMA {quoted(schema)} TO runstore_worker")
        await connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {quoted(schema)} TO runstore_worker")
        async with DatabaseClient(
            dsn=database.replace("://pipeline@", "://runstore_worker@"),
            unavailable=HistoryUnavailable,
            application_name="tests",
        ) as client:
            async with client.connection() as restricted:
                assert await migrate(restricted, schema) == ()
            with pytest.raises(AccessDenied, match="permission denied"):
                async with client.connection() as restricted:
                    await migrate(restricted, f"{schema} new")
    finally:
        await connection.execute("DROP OWNED BY runstore_worker")
        await connection.execute("DROP ROLE runstore_worker")
