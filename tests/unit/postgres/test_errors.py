"""Every error that asyncpg has a name for becomes one of this service's, on purpose."""

from __future__ import annotations

import asyncio
import inspect
import ssl

import asyncpg
import pytest
from asyncpg import exceptions

from pipeline_processing.errors import (
    AccessDenied,
    DatabaseMisconfigured,
    InternalError,
    PipelineError,
    QueryFailed,
    QueryInvalid,
    SourceBusy,
    SourceUnavailable,
    StandbyConflict,
    TooManyConnections,
)
from pipeline_processing.postgres import errors
from pipeline_processing.postgres.errors import Fault, fault_of, translate, translated
from tests.certificates import expired

WHERE = "db.example:5432/agencies"
# Warnings and notices aren't raised: asyncpg hands them to listeners.
CLASSES = [
    error
    for _, error in inspect.getmembers(exceptions, inspect.isclass)
    if issubclass(error, BaseException) and not issubclass(error, Warning)
]
OF_THE_SERVER = [error for error in CLASSES if issubclass(error, asyncpg.PostgresError) and error.sqlstate]
OF_THE_CLIENT = [error for error in CLASSES if error not in OF_THE_SERVER]

EXPECTED_OF_THE_CLIENT = {
    "ClientConfigurationError": Fault.MISCONFIGURED,
    "FatalPostgresError": Fault.FAILED,
    "InterfaceError": Fault.BUG,
    "InternalClientError": Fault.UNAVAILABLE,
    "OutdatedSchemaCacheError": Fault.BUSY,
    "PostgresError": Fault.FAILED,
    "ProtocolError": Fault.UNAVAILABLE,
    "TargetServerAttributeNotMatched": Fault.UNAVAILABLE,
    "UnknownPostgresError": Fault.FAILED,
    "UnsupportedClientFeatureError": Fault.INVALID,
    "UnsupportedServerFeatureError": Fault.INVALID,
}


def told(error: BaseException) -> PipelineError:
    return translate(error, unavailable=SourceUnavailable, where=WHERE)


@pytest.mark.parametrize("error", OF_THE_SERVER, ids=lambda error: f"{error.sqlstate} {error.__name__}")
def test_every_class_of_sqlstate_has_its_place(error: type[asyncpg.PostgresError]) -> None:
    """None of them falls through to the default, which is for states that Postgres doesn't define."""
    assert {error.sqlstate, error.sqlstate[:2]} & errors._FAULTS.keys()
    assert isinstance(told(error("words")), PipelineError)


@pytest.mark.parametrize("error", OF_THE_CLIENT, ids=lambda error: error.__name__)
def test_every_error_of_the_client_has_its_place(error: type[Exception]) -> None:
    """A new version of asyncpg may bring another, for which this list has to say what it means."""
    assert fault_of(error("words")) is EXPECTED_OF_THE_CLIENT[error.__name__]


@pytest.mark.parametrize(
    ("sqlstate", "expected"),
    [
        ("08000", SourceUnavailable),
        ("08006", SourceUnavailable),
        ("57P01", SourceUnavailable),
        ("57P02", SourceUnavailable),
        ("57P03", SourceUnavailable),
        ("57P05", SourceUnavailable),
        ("25P03", SourceUnavailable),
        ("28000", AccessDenied),
        ("28P01", AccessDenied),
        ("42501", AccessDenied),
        ("3D000", DatabaseMisconfigured),
        ("57P04", DatabaseMisconfigured),
        ("26000", DatabaseMisconfigured),
        ("42P05", DatabaseMisconfigured),
        ("40001", SourceBusy),
        ("40P01", SourceBusy),
        ("53100", SourceBusy),
        ("53200", SourceBusy),
        ("53300", TooManyConnections),
        ("55P03", SourceBusy),
        ("72000", SourceBusy),
        ("42601", QueryInvalid),
        ("42703", QueryInvalid),
        ("42P01", QueryInvalid),
        ("3F000", QueryInvalid),
        ("0A000", QueryInvalid),
        ("25006", QueryInvalid),
        ("57014", QueryFailed),
        ("22012", QueryFailed),
        ("22P02", QueryFailed),
        ("23505", QueryFailed),
        ("P0001", QueryFailed),
        ("XX001", QueryFailed),
        ("ZZ999", QueryFailed),
        ("34000", InternalError),
    ],
)
def test_a_sqlstate_says_what_to_do_next(sqlstate: str, expected: type[PipelineError]) -> None:
    """As the server sends it; the message has the cause, the state, and no DETAIL, which quotes rows."""
    error = asyncpg.PostgresError.new({"C": sqlstate, "M": "the cause.", "D": "Key (email)=(a@b.c)", "H": "a hint"})

    translated_error = told(error)

    assert type(translated_error) is expected
    assert "the cause" in str(translated_error)
    if expected is not InternalError:
        assert sqlstate in str(translated_error)
        assert "a@b.c" not in str(translated_error)


@pytest.mark.parametrize(
    ("message", "expected", "remedy"),
    [
        ("unsupported startup parameter: IntervalStyle", DatabaseMisconfigured, "Remove it from the DSN"),
        ("unsupported startup parameter in options: geqo", DatabaseMisconfigured, "Remove it from the DSN"),
        ("transaction blocks not allowed in statement pooling mode", DatabaseMisconfigured, "pool_mode"),
        ("no such database: agencies", DatabaseMisconfigured, "correct the DSN"),
        ('server login failed: FATAL database "x" does not exist', DatabaseMisconfigured, "correct the DSN"),
        ("no such user: me", AccessDenied, "user and password"),
        ('"trust" authentication failed', AccessDenied, "user and password"),
        ("no more connections allowed (max_client_conn)", TooManyConnections, "The run waits for one"),
        ("query_wait_timeout", SourceBusy, "Try again later"),
        ("server conn crashed?", SourceUnavailable, "is up"),
        ("connection does not exist", SourceUnavailable, "is up"),
        ("server login has been failing, try again later (server_login_retry)", SourceUnavailable, "is up"),
    ],
)
def test_errors_of_pgbouncer_are_told_apart(message: str, expected: type[PipelineError], remedy: str) -> None:
    """It has one state for all of them, which would mean a server that is away; asyncpg has another, when cut off."""
    for fields in (
        {"C": "08P01", "M": message},
        {"C": "08003", "M": f"connection was closed in the middle of operation: {message}"},
    ):
        error = told(asyncpg.PostgresError.new(fields))

        assert type(error) is expected
        assert remedy in str(error)


@pytest.mark.parametrize(
    "fields",
    [
        {"C": "40001", "M": "canceling statement due to conflict with recovery"},
        {"C": "40P01", "M": "canceling statement due to conflict with recovery"},
        {"C": "40001", "M": "Anfrage wird storniert", "R": "ProcessRecoveryConflictInterrupt"},
        {"C": "40001", "M": "annulation de la requête", "R": "ProcessInterrupts"},
        {"C": "08003", "M": "connection was closed: terminating connection due to conflict with recovery"},
    ],
)
def test_a_standby_that_cancels_is_told_from_a_busy_server(fields: dict[str, str]) -> None:
    """In any language of the server's messages."""
    error = told(asyncpg.PostgresError.new(fields))

    assert isinstance(error, StandbyConflict)
    assert "hot_standby_feedback" in str(error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError(111, "Connect call failed"), SourceUnavailable),
        (ConnectionResetError(), SourceUnavailable),
        (TimeoutError(), SourceUnavailable),
        (ssl.SSLError("handshake"), SourceUnavailable),
        (ssl.SSLCertVerificationError("self-signed certificate"), DatabaseMisconfigured),
        (expired(), SourceUnavailable),
        (asyncpg.InterfaceError("connection is closed"), SourceUnavailable),
        (asyncpg.InterfaceError("pool is closing"), SourceUnavailable),
        (asyncpg.InterfaceError("connection has been released back to the pool"), SourceUnavailable),
        (asyncpg.InterfaceError("another operation is in progress"), InternalError),
        (asyncpg.InvalidCachedStatementError("cached statement plan is invalid"), SourceBusy),
        (KeyError("x"), InternalError),
    ],
    ids=repr,
)
def test_errors_without_a_sqlstate(error: Exception, expected: type[PipelineError]) -> None:
    """Of the network, and of asyncpg itself."""
    assert type(told(error)) is expected
    assert str(told(error))


def test_the_certificate_of_another_server_is_another_matter() -> None:
    """As of the source's, while the run's failure is written to the history."""
    source = DatabaseMisconfigured("the source can't be used")
    source.__cause__ = ssl.SSLCertVerificationError("self-signed certificate")
    error = ConnectionRefusedError(111, "Connect call failed")
    error.__context__ = source
    assert type(told(error)) is SourceUnavailable


def test_the_error_behind_is_kept() -> None:
    """For the log."""
    cause = asyncpg.PostgresSyntaxError("syntax error")

    with pytest.raises(QueryInvalid) as raised, translated(unavailable=SourceUnavailable, where=WHERE):
        raise cause
    assert raised.value.__cause__ is cause


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SourceBusy("ours"), KeyboardInterrupt()], ids=repr)
def test_what_is_not_a_drivers_error_passes(error: BaseException) -> None:
    """Cancellation above all, and errors that are this service's already."""
    with pytest.raises(type(error)) as raised, translated(unavailable=SourceUnavailable, where=WHERE):
        raise error
    assert raised.value is error
