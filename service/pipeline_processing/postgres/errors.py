"""
Translate asyncpg's errors. A test checks that every SQLSTATE class is mapped explicitly.

Messages quote Postgres's own message, which never contains the DSN, and give the remedy. An error's DETAIL is left out,
because it quotes rows.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum, auto
from traceback import walk_tb
from types import MappingProxyType
from typing import Any

import asyncpg

from pipeline_processing.certificates import has_expired, refusal_of_ours, remedy_for_server, verification_of
from pipeline_processing.errors import (
    AccessDenied,
    DatabaseMisconfigured,
    InternalError,
    PipelineError,
    QueryFailed,
    QueryInvalid,
    SourceBusy,
    StandbyConflict,
    TooManyConnections,
    TransientError,
)
from pipeline_processing.postgres.dsn import is_about_files, unusable_dsn


class Fault(Enum):
    """What is wrong, as far as it matters for the caller's next step."""

    UNAVAILABLE = auto()
    ACCESS = auto()
    MISCONFIGURED = auto()
    CONFLICT = auto()
    BUSY = auto()
    FULL = auto()
    INVALID = auto()
    FAILED = auto()
    BUG = auto()


_FAULTS: Mapping[str, Fault] = {
    # A full SQLSTATE takes precedence over its class, the first two characters.
    "03": Fault.BUG,  # SQL statement not yet complete
    "08": Fault.UNAVAILABLE,  # connection
    "09": Fault.FAILED,  # triggered action
    "0A": Fault.INVALID,  # feature not supported
    "0B": Fault.BUG,  # invalid transaction initiation
    "0F": Fault.FAILED,  # locator
    "0L": Fault.ACCESS,  # grantor
    "0P": Fault.ACCESS,  # no such role
    "0Z": Fault.FAILED,  # diagnostics, in a function
    "10": Fault.FAILED,  # XQuery
    "20": Fault.FAILED,  # no case found, in a function
    "21": Fault.FAILED,  # a subquery gave several rows
    "22": Fault.FAILED,  # data
    "23": Fault.FAILED,  # integrity constraint
    "24": Fault.BUG,  # cursor state
    "25": Fault.BUG,  # transaction state
    "25001": Fault.INVALID,  # a statement that can't run in a transaction
    "25006": Fault.INVALID,  # a write in a read-only transaction
    "25P03": Fault.UNAVAILABLE,  # idle_in_transaction_session_timeout: the server closed the connection
    "25P04": Fault.FAILED,  # transaction_timeout
    "26": Fault.MISCONFIGURED,  # a prepared statement is gone: see _REMEDIES
    "27": Fault.FAILED,  # triggered data change
    "28": Fault.ACCESS,  # authorization, password
    "2B": Fault.FAILED,  # dependent privileges
    "2D": Fault.INVALID,  # transaction termination
    "2F": Fault.FAILED,  # SQL routine
    "34": Fault.BUG,  # cursor name
    "38": Fault.FAILED,  # external routine
    "39": Fault.FAILED,  # external routine invocation
    "3B": Fault.BUG,  # savepoint
    "3D": Fault.MISCONFIGURED,  # no such database
    "3F": Fault.INVALID,  # no such schema
    "40": Fault.BUSY,  # serialization failure, deadlock; or recovery on a standby: see _fault_of_server
    "42": Fault.INVALID,  # syntax, unknown table or column
    "42501": Fault.ACCESS,  # insufficient privilege
    "42P05": Fault.MISCONFIGURED,  # another client's prepared statement: see _REMEDIES
    "44": Fault.FAILED,  # WITH CHECK OPTION
    "53": Fault.BUSY,  # disk, memory
    "53300": Fault.FULL,  # connections: of the server, the database or the role
    "54": Fault.FAILED,  # program limit
    "55": Fault.FAILED,  # object not in prerequisite state
    "55006": Fault.BUSY,  # object in use
    "55P02": Fault.MISCONFIGURED,  # can't change parameter
    "55P03": Fault.BUSY,  # lock not available
    "57": Fault.UNAVAILABLE,  # shutdown, idle_session_timeout
    "57014": Fault.FAILED,  # statement_timeout, or cancelled by a user
    "57P04": Fault.MISCONFIGURED,  # database dropped
    "58": Fault.UNAVAILABLE,  # the server's operating system
    "58P01": Fault.FAILED,  # a file of an extension is missing
    "58P02": Fault.FAILED,
    "58P03": Fault.FAILED,
    "72": Fault.BUSY,  # snapshot too old
    "F0": Fault.UNAVAILABLE,  # the server's configuration file
    "HV": Fault.FAILED,  # foreign data
    "HV001": Fault.BUSY,
    "HV00N": Fault.UNAVAILABLE,  # the foreign server can't be reached
    "P0": Fault.FAILED,  # raised in a function
    "XX": Fault.FAILED,  # internal error, corruption
}

_REMEDIES: Mapping[str, str] = {
    "25P03": "Raise idle_in_transaction_session_timeout for this user: a slow destination keeps the snapshot waiting.",
    "25P04": "Raise transaction_timeout for this user: one snapshot lasts as long as the whole export.",
    "26000": "Connect to Postgres itself, or to a pooler in transaction or session mode.",
    "3D000": "Create it, or correct the DSN.",
    "42P05": "Connect to Postgres itself, or to a pooler in transaction or session mode.",
    "57014": "Make the query faster, or raise the dataset's statement_timeout.",
    "57P05": "Raise idle_session_timeout for this user.",
}

_OF_PGBOUNCER: Mapping[str, tuple[Fault, str | None]] = {
    "unsupported startup parameter": (
        Fault.MISCONFIGURED,
        "This is PgBouncer, which doesn't accept this startup parameter. Remove it from the DSN; set what the user's "
        "sessions need with ALTER ROLE … SET.",
    ),
    "statement pooling mode": (
        Fault.MISCONFIGURED,
        "This is PgBouncer in statement mode. Set the database's pool_mode there to transaction or session.",
    ),
    "no such database": (Fault.MISCONFIGURED, "Add it to PgBouncer's databases, or correct the DSN."),
    "database .* does not exist": (Fault.MISCONFIGURED, "Create it, or correct the DSN, or PgBouncer's databases."),
    "no such user": (Fault.ACCESS, None),
    "authentication failed": (Fault.ACCESS, None),
    "no more connections allowed": (Fault.FULL, None),
    "query_wait_timeout": (Fault.BUSY, None),
}
"""
PgBouncer's own errors, by a part of the message. It reports all of them as connection errors (08), as asyncpg does when
its connection is closed. Those not listed here mean that the server is unavailable.
"""

_CORRECT = "Correct the DSN, or the server."
STANDBY_REMEDY = "Set hot_standby_feedback or raise max_standby_streaming_delay there, or read from the primary."

NO_REMEDIES: Mapping[str, str] = MappingProxyType({})

_ASYNCPG: tuple[type[Exception], ...] = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_CANDIDATES: tuple[type[Exception], ...] = (*_ASYNCPG, OSError, ValueError)
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_RECOVERY = "conflict with recovery"
_STALE_CACHE = (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)
_UNSUPPORTED = (asyncpg.UnsupportedClientFeatureError, asyncpg.UnsupportedServerFeatureError)


@contextmanager
def translated(
    *,
    unavailable: type[TransientError],
    where: str,
    connecting: bool = False,
    remedies: Mapping[str, str] = NO_REMEDIES,
) -> Iterator[None]:
    """
    Translate asyncpg's errors in the block to this service's.

    `where` names the server in messages; `remedies`, by SQLSTATE, take precedence over the usual ones. An OSError is
    attributed to the server only while `connecting`, or if asyncpg raised it: the block may do other work, which has
    its own errors.
    """
    try:
        yield
    except _CANDIDATES as error:
        if connecting and (isinstance(error, ValueError) or is_about_files(error)) and not verification_of(error):
            # Drop the error and its text, which may quote the DSN including the password.
            raise unusable_dsn(error, where=where) from None
        first = _first_error(error)
        if not (isinstance(first, _ASYNCPG) or connecting or _raised_by_asyncpg(first)):
            raise first  # noqa: B904 - it was raised first
        raise translate(first, unavailable=unavailable, where=where, remedies=remedies) from first


@contextmanager
def without_values() -> Iterator[None]:
    """
    Remove the message from Postgres's errors in the block, as it may quote values of rows; the condition is kept. For
    use inside a `translated` block.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        raise _without_message(error) from None  # tracebacks must not show the message either


def fault_of(error: BaseException) -> Fault:
    """Return what is wrong. An error that isn't asyncpg's or the network's is a bug."""
    if isinstance(error, _STALE_CACHE):
        return Fault.BUSY
    if refusal_of_ours(error):
        return Fault.ACCESS
    if isinstance(error, asyncpg.PostgresError):
        return _fault_of_server(error)
    if (refused := verification_of(error)) is not None:
        # A certificate that has expired may be renewed any minute.
        return Fault.UNAVAILABLE if has_expired(refused) else Fault.MISCONFIGURED
    if isinstance(error, asyncpg.ClientConfigurationError) or _lacks_tls(error):
        return Fault.MISCONFIGURED
    if isinstance(error, asyncpg.InterfaceError):
        if isinstance(error, (ValueError, *_UNSUPPORTED)):
            return Fault.INVALID  # an argument of the wrong type, or a type that can't be read
        # asyncpg has no error class for the use of a connection closed by the server or a shutdown.
        gone = "clos" in str(error) or "released back to the pool" in str(error)
        return Fault.UNAVAILABLE if gone else Fault.BUG
    # asyncpg raises InternalClientError ("cannot switch to state 15") when the server closes the connection between
    # two of its steps: seen in 4 of 100 terminated sessions.
    return Fault.UNAVAILABLE if isinstance(error, OSError | asyncpg.InternalClientError) else Fault.BUG


def translate(
    error: BaseException,
    *,
    unavailable: type[TransientError],
    where: str,
    remedies: Mapping[str, str] = NO_REMEDIES,
) -> PipelineError:
    """Return the error to raise instead of `error`; see `translated`."""
    cause = cause_of(refusal_of_ours(error) or error)
    sqlstate = getattr(error, "sqlstate", None) or ""
    remedy = remedies.get(sqlstate) or _REMEDIES.get(sqlstate) or _of_pgbouncer(error)[1] or _remedy_for_tls(error)
    match fault_of(error):
        case Fault.UNAVAILABLE:
            return unavailable(
                f"Postgres at {where} can't be reached, or broke off: {cause}. "
                f"{remedy or 'Check that it is up, and that host, port and TLS of the DSN are right.'}"
            )
        case Fault.ACCESS:
            return AccessDenied(
                f"Postgres at {where} refuses access: {cause}. Check the DSN's user and password, `passfile` (which "
                "others must not be able to read) or `sslcert` and `sslkey`, and grant the user what it needs."
            )
        case Fault.MISCONFIGURED:
            return DatabaseMisconfigured(f"Postgres at {where} can't be used: {cause}. {remedy or _CORRECT}")
        case Fault.CONFLICT:
            return StandbyConflict(
                f"The standby {where} cancelled the query, because replay conflicted with it: {cause}. {STANDBY_REMEDY}"
            )
        case Fault.BUSY:
            return SourceBusy(f"Postgres at {where} can't run this right now: {cause}. Try again later.")
        case Fault.FULL:
            return TooManyConnections(
                f"Postgres at {where} has no connection left: {cause}. The run waits for one. If this persists, allow "
                "more connections there, or lower PIPELINE_WORKER__CONCURRENCY or the number of workers."
            )
        case Fault.INVALID:
            return QueryInvalid(f"Postgres at {where} can't run the query: {cause}. Correct it in the job config.")
        case Fault.FAILED:
            return QueryFailed(
                f"The query failed at {where}: {cause}. {remedy or 'Correct the data, or the query in the job config.'}"
            )
        case Fault.BUG:
            return InternalError(error)


def cause_of(error: BaseException) -> str:
    """Return the error's text, as Postgres or the operating system words it."""
    if isinstance(error, asyncpg.PostgresError):
        hint = f"; hint: {error.hint.rstrip('.')}" if getattr(error, "hint", None) else ""
        return f"{_first_argument(error).rstrip('.')} (SQLSTATE {error.sqlstate}){hint}"
    return _first_argument(error) if isinstance(error, asyncpg.InterfaceError) else str(error) or _named(error)


def is_invalid_value(error: BaseException) -> bool:
    """Whether asyncpg could not encode a value, such as a time out of its type's range."""
    return isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)


def condition_of(error: BaseException | None) -> str:
    """Return Postgres's name of the condition, such as `not null violation`, derived from asyncpg's class name."""
    return _WORD.sub(" ", type(error).__name__.removesuffix("Error")).lower()


def _without_message(error: Any) -> asyncpg.PostgresError:
    """Return an error with the same fault, but without the server's message."""
    reworded: asyncpg.PostgresError = type(error)(_RECOVERY if _during_recovery(error) else condition_of(error))
    reworded.sqlstate = error.sqlstate
    return reworded


def _fault_of_server(error: Any) -> Fault:
    sqlstate = error.sqlstate or ""
    if sqlstate[:2] in ("40", "08") and _during_recovery(error):  # 08: asyncpg, if its connection is closed for it
        return Fault.CONFLICT
    if of_pgbouncer := _of_pgbouncer(error)[0]:
        return of_pgbouncer
    # SQLSTATEs that Postgres doesn't define come from functions and extensions.
    return _FAULTS.get(sqlstate) or _FAULTS.get(sqlstate[:2]) or Fault.FAILED


def _of_pgbouncer(error: BaseException) -> tuple[Fault | None, str | None]:
    if (getattr(error, "sqlstate", None) or "").startswith("08"):
        for part, known in _OF_PGBOUNCER.items():
            if re.search(part, str(error)):
                return known
    return None, None


def _during_recovery(error: Any) -> bool:
    # The message may be localized; the name of the server's C function isn't.
    function = getattr(error, "server_source_function", None) or ""
    return _RECOVERY in str(error) or function.startswith(("ProcessInterrupts", "ProcessRecoveryConflict"))


def _first_error(error: BaseException) -> BaseException:
    """Return the error that ended the block. The rollback on a closed connection hides it, even a cancellation."""
    hides = isinstance(error, asyncpg.InterfaceError) and "Transaction.__aexit__" in str(error)
    return error.__context__ if hides and error.__context__ is not None else error


def _raised_by_asyncpg(error: BaseException) -> bool:
    modules = (str(frame.f_globals.get("__name__", "")) for frame, _ in walk_tb(error.__traceback__))
    return isinstance(error, OSError) and any(module.partition(".")[0] == "asyncpg" for module in modules)


def _lacks_tls(error: BaseException) -> bool:
    return isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error)


def _remedy_for_tls(error: BaseException) -> str | None:
    if refused := verification_of(error):
        return remedy_for_server(refused, authorities="the DSN's `sslrootcert`", names="the DSN")
    return "Switch TLS on there, or correct the DSN's `sslmode`." if _lacks_tls(error) else None


def _first_argument(error: BaseException) -> str:
    return str(error.args[0]) if error.args else _named(error)


def _named(error: BaseException) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
