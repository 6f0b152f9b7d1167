"""Whether the databases behave as relied on: that of the source, and that of the history."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline_processing.aio.clock import Clock
from pipeline_processing.doctor.checking import Advice, Check, Shortfall, Skipped
from pipeline_processing.errors import AccessDenied
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.postgres.identifiers import quoted

_MOST_SKEW_SECONDS = 5.0
NEEDED_PRIVILEGES = {
    "installation": "SELECT",
    "agencies": "SELECT, INSERT, UPDATE",
    "runs": "SELECT, INSERT, UPDATE",
    "run_attempts": "SELECT, INSERT, UPDATE",
    "run_datasets": "SELECT, INSERT, UPDATE, DELETE",
    "plans": "SELECT, INSERT, DELETE",
    "uploads": "SELECT, INSERT, UPDATE, DELETE",
    "artifacts": "SELECT, INSERT",
    "outbox": "SELECT, INSERT, UPDATE",
    "dead_letters": "SELECT, INSERT",
    "tombstones": "SELECT, UPDATE",
    "webhooks": "SELECT, INSERT, UPDATE, DELETE",
    "webhook_deliveries": "SELECT, INSERT, UPDATE",
}
"""What `serve` does with each table of the history. One that isn't there yet is a matter of the schema's version."""


@dataclass(frozen=True, slots=True)
class Database:
    """A database, and what the checks need to know besides."""

    client: DatabaseClient
    clock: Clock


@dataclass(frozen=True, slots=True)
class SourceDatabase(Database):
    session_settings: Mapping[str, str]
    """What every session must have, so that values are exact."""
    reader: str
    """How rows are read."""
    copies: bool
    """Whether that is by COPY."""


@dataclass(frozen=True, slots=True)
class HistoryDatabase(Database):
    schema: str
    encoding: Callable[[Any], Awaitable[None]]
    """Raises DatabaseMisconfigured."""
    pending: Callable[[Any, str], Awaitable[Sequence[Any]]]
    """Returns the migrations to apply. Raises HistoryTooNew."""


# -- both ----------------------------------------------------------------------------------------


async def _answers(database: Database) -> str:
    async with database.client.connection() as connection:
        version, pooled = await connection.fetchrow(
            "SELECT current_setting('server_version'), pg_backend_pid() <> $1", connection.get_server_pid()
        )
    return f"Postgres {version}{', through a pooler' if pooled else ''}"


async def _clock(database: Database) -> str:
    async with database.client.connection() as connection:
        await connection.fetchval("SELECT 1")  # so that the next one takes a single round trip
        began_at, before = database.clock.monotonic(), database.clock.now()
        there = await connection.fetchval("SELECT clock_timestamp()")
        took = database.clock.monotonic() - began_at
    apart = (there - before).total_seconds() - took / 2
    if abs(apart) - took / 2 > _MOST_SKEW_SECONDS:
        raise Shortfall(f"its clock is {abs(apart):,.0f} s {'ahead of' if apart > 0 else 'behind'} this machine's")
    return f"its clock is {abs(apart):.1f} s from this machine's"


async def _snapshot(database: Database) -> str:
    question = (
        "SELECT pg_backend_pid(), pg_current_snapshot()::text, current_setting('transaction_isolation'), "
        "current_setting('transaction_read_only')"
    )
    async with (
        database.client.connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        first = tuple(await connection.fetchrow(question))
        second = tuple(await connection.fetchrow(question))
    if first != second or first[2:] != ("repeatable read", "on"):
        raise Shortfall("two statements of a transaction see different sessions or snapshots")
    return "a read-only transaction sees one snapshot, in one session"


_CLOCKS = Check(
    "clock",
    _clock,
    "spans and logs are out of order, schedules tick early or late, events that seem to come from the future are "
    "refused, and S3 refuses requests beyond 15 minutes (leases and deadlines go by the history's clock alone)",
    "Synchronise both clocks, by NTP.",
)
_SNAPSHOTS = Check(
    "snapshot",
    _snapshot,
    "the datasets of a run wouldn't be of one moment, and their counts wouldn't agree",
    "Set the pooler to pool_mode = transaction or session.",
)


# -- the source ----------------------------------------------------------------------------------


async def _session_settings(source: SourceDatabase) -> str:
    async with source.client.connection() as connection, connection.transaction():
        rows = await connection.fetch(
            "SELECT name, current_setting(name) AS value FROM unnest($1::text[]) AS name", list(source.session_settings)
        )
    got = {row["name"]: row["value"] for row in rows}
    # DateStyle is told with the order of input: `ISO, MDY`.
    wrong = [f"{name} is {got[name]}" for name, value in source.session_settings.items() if not _is(got[name], value)]
    if wrong:
        raise Shortfall(f"settings of the session don't hold: {', '.join(wrong)}")
    return f"{len(got)} settings of the session hold"


def _is(got: str, wanted: str) -> bool:
    return got.split(",")[0].lower() == wanted.lower()


async def _copy(source: SourceDatabase) -> str:
    came = bytearray()

    async def take(data: bytes) -> None:
        came.extend(data)

    async with source.client.connection() as connection, connection.transaction(readonly=True):
        await connection.copy_from_query("SELECT 1 AS id, 'x' AS name", output=take, format="binary")
    if not came.startswith(b"PGCOPY\n"):
        raise Shortfall("COPY … TO STDOUT (FORMAT binary) gives something else")
    if not source.copies:
        raise Advice(source.reader)
    return source.reader


async def _standby(source: SourceDatabase) -> str:
    async with source.client.connection() as connection:
        standby, delay, feedback = await connection.fetchrow(
            "SELECT pg_is_in_recovery(), current_setting('max_standby_streaming_delay'), "
            "current_setting('hot_standby_feedback')"
        )
    if not standby:
        return "a primary: no snapshot is cancelled by replication"
    if feedback == "off" and delay != "-1":
        raise Advice(f"a standby that may cancel a snapshot after {delay}")
    return "a standby that doesn't cancel snapshots"


async def _time_limits(source: SourceDatabase) -> str:
    names = ["transaction_timeout", "idle_in_transaction_session_timeout"]
    async with source.client.connection() as connection:
        rows = await connection.fetch(
            "SELECT name, current_setting(name) AS value FROM pg_settings WHERE name = ANY($1) AND setting <> '0'",
            names,
        )
    if rows:
        raise Advice(", ".join(f"{row['name']} is {row['value']}" for row in rows))
    return "no time limit of the role or database ends a long run"


SOURCE_CHECKS: Sequence[Check[SourceDatabase]] = (
    Check("connects", _answers, "no run can read"),
    _SNAPSHOTS,
    Check(
        "session settings",
        _session_settings,
        "values of dates, intervals, bytea, floats and money would be written as another session prints them",
        "Set the pooler to pool_mode = transaction or session, and remove whatever resets settings in between.",
    ),
    Check(
        "COPY",
        _copy,
        "rows are read at less than half the speed",
        "Install the package with a C++ compiler at hand, and leave PIPELINE_SOURCE__READER as `auto`.",
    ),
    Check(
        "time limits",
        _time_limits,
        "a run that takes longer is cut off, and tried again until its attempts are used up",
        "Set them to 0 for the service's role: ALTER ROLE … SET … = 0. A dataset's `statement_timeout` limits queries.",
    ),
    Check(
        "replication",
        _standby,
        "runs that read for longer are cancelled and start again",
        "Set hot_standby_feedback = on, or max_standby_streaming_delay to more than the longest run takes.",
    ),
    _CLOCKS,
)


# -- the history ---------------------------------------------------------------------------------


async def _writable(history: HistoryDatabase) -> str:
    async with history.client.connection() as connection:
        standby, read_only = await connection.fetchrow(
            "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'"
        )
    if standby or read_only:
        raise Shortfall("it is a standby" if standby else "its transactions are read-only")
    return "a primary that takes writes"


async def _encoding(history: HistoryDatabase) -> str:
    async with history.client.connection() as connection:
        await history.encoding(connection)
    return "UTF8"


async def _schema(history: HistoryDatabase) -> str:
    async with history.client.connection() as connection:
        missing = await history.pending(connection, history.schema)
    if missing:
        raise Shortfall(f"the schema {history.schema!r} lacks {len(missing)} migrations")
    return f"the schema {history.schema!r} is that of this version"


async def _privileges(history: HistoryDatabase) -> str:
    pairs = [(table, each) for table, needed in NEEDED_PRIVILEGES.items() for each in needed.split(", ")]
    async with history.client.connection() as connection:
        lacking = await connection.fetchval(
            "SELECT string_agg(privilege || ' on ' || name, ', ') "
            "FROM unnest($1::text[], $2::text[]) AS needed (name, privilege) "
            "WHERE to_regclass(name) IS NOT NULL AND NOT has_table_privilege(to_regclass(name), privilege)",
            [f"{quoted(history.schema)}.{table}" for table, _ in pairs],
            [privilege for _, privilege in pairs],
        )
        sequence = f"{quoted(history.schema)}.fences"
        if await connection.fetchval(
            "SELECT NOT has_sequence_privilege(to_regclass($1), 'USAGE') WHERE to_regclass($1) IS NOT NULL", sequence
        ):
            lacking = f"{lacking}, USAGE on {sequence}" if lacking else f"USAGE on {sequence}"
    if lacking:
        raise AccessDenied(f"The role lacks {lacking}. Grant it.")
    return "the role has the privileges on every table"


async def _skip_locked(history: HistoryDatabase) -> str:
    runs = f"{quoted(history.schema)}.runs"
    # Of runs, only finished ones: another worker must not be kept from one that it could claim.
    finished = (
        f"SELECT run_id FROM {runs} WHERE state IN ('succeeded', 'failed', 'cancelled') "  # noqa: S608 quoted
        "ORDER BY run_id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED"
    )
    again = f"SELECT run_id FROM {runs} WHERE run_id = $1 FOR NO KEY UPDATE SKIP LOCKED"  # noqa: S608 quoted
    async with history.client.connection() as one, one.transaction():
        if await one.fetchval("SELECT to_regclass($1) IS NULL", runs):
            raise Skipped("there is no history yet")
        run_id = await one.fetchval(finished)
        if run_id is None:
            return "SKIP LOCKED is accepted (it is tried on a finished run, and there is none)"
        async with history.client.connection() as other, other.transaction():
            if await other.fetchval(again, run_id) is not None:
                raise Shortfall("two transactions lock the same run at once")
    return "a run that another transaction has locked is passed over"


async def _durability(history: HistoryDatabase) -> str:
    async with history.client.connection() as connection:
        rows = await connection.fetch(
            "SELECT name, setting FROM pg_settings "
            "WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes') AND setting = 'off'"
        )
    if rows:
        raise Advice(f"{', '.join(row['name'] for row in rows)} off")
    return "what is committed survives a crash of the server"


HISTORY_CHECKS: Sequence[Check[HistoryDatabase]] = (
    Check("connects", _answers, "no request can be accepted, and no run claimed"),
    Check(
        "takes writes",
        _writable,
        "no request can be accepted, and no run claimed",
        "Point PIPELINE_HISTORY__DSN to the primary (`target_session_attrs=read-write` finds it among several hosts).",
    ),
    Check("encoding", _encoding, "requests and errors with other characters can't be stored"),
    Check(
        "schema version",
        _schema,
        "`serve` and `run` don't start",
        "Run `pipeline-processing migrate`.",
    ),
    Check(
        "privileges",
        _privileges,
        "the service stops with 77 at the first statement that needs them",
    ),
    _SNAPSHOTS,
    Check(
        "SKIP LOCKED",
        _skip_locked,
        "two workers could claim one run; fences keep its result right, but it is done twice",
        "Use PostgreSQL itself: some databases that speak its protocol ignore SKIP LOCKED.",
    ),
    Check(
        "durability",
        _durability,
        "a crash of the server can lose an accepted request whose offset is committed (promise 3)",
        "Set them to `on`; or, after a crash, run `replay --since … --same-run --execute`.",
    ),
    _CLOCKS,
)
