"""Every error that aiokafka has a name for becomes one of this service's, on purpose."""

from __future__ import annotations

import inspect
import ssl

import pytest
from aiokafka import TopicPartition, errors

from pipeline_processing.errors import (
    AccessDenied,
    InternalError,
    KafkaUnavailable,
    MessageRefused,
    MessageTooLarge,
    PipelineError,
    SettingsError,
    TopicMissing,
)
from pipeline_processing.messaging.kafka.errors import KINDS, Where, kind_of, translate, translated
from tests.certificates import expired

WHERE = Where(brokers="a.example:9092, b.example:9092", topics=("requests",), group="workers")
UNAVAILABLE = """
    BrokerNotAvailableError Cancelled CommitFailedError ConcurrentTransactions CorrelationIdError
    CorruptRecordException DuplicateSequenceNumber FetchSessionIdNotFound GroupCoordinatorNotAvailableError
    GroupLoadInProgressError IllegalGenerationError InvalidFetchSessionEpoch InvalidProducerEpoch
    InvalidProducerIdMapping KafkaConnectionError KafkaProtocolError KafkaStorageError KafkaTimeoutError
    KafkaUnavailableError LeaderNotAvailableError ListenerNotFound LogDirNotFound MemberIdRequired
    MetadataEmptyBrokerList NoBrokersAvailable NodeNotReadyError NotControllerError NotCoordinatorForGroupError
    NotEnoughReplicasAfterAppendError NotEnoughReplicasError NotLeaderForPartitionError OperationNotAttempted
    OutOfOrderSequenceNumber ProducerClosed ProducerFenced QuotaViolationError ReassignmentInProgress
    RebalanceInProgressError ReplicaNotAvailableError RequestTimedOutError StaleControllerEpochError
    StaleLeaderEpochCodeError StaleMetadata TooManyInFlightRequests TransactionCoordinatorFenced UnknownError
    UnknownMemberIdError UnknownProducerId
"""
"""Errors that pass by waiting, or with a new client: they have no place of their own."""
NEVER = """
    BrokerResponseError DelegationTokenAuthDisabled DelegationTokenAuthorizationFailed DelegationTokenExpired
    DelegationTokenNotFound DelegationTokenOwnerMismatch DelegationTokenRequestNotAllowed GroupIdNotFound
    InvalidPrincipalType InvalidTransactionTimeout InvalidTxnState NoError NonEmptyGroup RecordTooLargeError
    TransactionalIdAuthorizationFailed
"""
"""Bases, and errors of features that this service doesn't use."""
BUGS = "ConsumerStoppedError IllegalOperation"
"""Errors that aren't KafkaErrors."""


def test_every_error_has_its_place() -> None:
    """A later aiokafka may bring another: it fails here until somebody has decided. Meanwhile it is retried."""
    classes = [error for _, error in inspect.getmembers(errors, inspect.isclass) if issubclass(error, Exception)]
    without = {error.__name__ for error in classes if error not in KINDS}
    assert sorted(without) == sorted((UNAVAILABLE + NEVER + BUGS).split())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.KafkaConnectionError("Unable to bootstrap"), KafkaUnavailable),
        (errors.NodeNotReadyError("node 1"), KafkaUnavailable),
        (errors.RequestTimedOutError(), KafkaUnavailable),
        (errors.KafkaTimeoutError(), KafkaUnavailable),
        (errors.NotEnoughReplicasError(), KafkaUnavailable),
        (errors.GroupCoordinatorNotAvailableError(), KafkaUnavailable),
        (errors.OutOfOrderSequenceNumber(), KafkaUnavailable),
        (errors.ProducerFenced(), KafkaUnavailable),
        (errors.UnknownError(), KafkaUnavailable),
        (TimeoutError(), KafkaUnavailable),
        (ConnectionRefusedError(111, "refused"), KafkaUnavailable),
        (ssl.SSLError("WRONG_VERSION_NUMBER"), KafkaUnavailable),
        (errors.SaslAuthenticationFailed("wrong password"), AccessDenied),
        (errors.TopicAuthorizationFailedError("requests"), AccessDenied),
        (errors.GroupAuthorizationFailedError("workers"), AccessDenied),
        (errors.ClusterAuthorizationFailedError(), AccessDenied),
        (errors.UnknownTopicOrPartitionError("requests"), TopicMissing),
        (errors.MessageSizeTooLargeError(), MessageTooLarge),
        (errors.RecordListTooLargeError(), MessageTooLarge),
        (errors.InvalidTimestampError(), MessageRefused),
        (errors.InvalidReplicationFactorError(), SettingsError),
        (errors.UnsupportedSaslMechanismError(), SettingsError),
        (errors.UnsupportedCodecError("zstd"), SettingsError),
        (ssl.SSLCertVerificationError("self-signed"), SettingsError),
        (expired(), KafkaUnavailable),
        (errors.IllegalStateError(), InternalError),
        (errors.ConsumerStoppedError(), InternalError),
        (ValueError("ours"), InternalError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
def test_an_error_says_what_to_do_next(error: Exception, expected: type[PipelineError]) -> None:
    """By its type; and its message names the brokers, but for a topic that isn't there and a bug."""
    told = translate(error, where=WHERE)
    assert type(told) is expected
    if expected not in (TopicMissing, InternalError):
        assert WHERE.brokers in str(told)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.TopicAuthorizationFailedError("jobs"), "to the topic jobs:"),
        (errors.TopicAuthorizationFailedError({"b", "a"}), "to the topic a, b:"),
        (errors.TopicAuthorizationFailedError(TopicPartition("jobs", 3)), "to the topic jobs:"),
        (errors.TopicAuthorizationFailedError(), "to the topic requests:"),
        (errors.GroupAuthorizationFailedError("workers"), "to the group workers:"),
        (errors.UnknownTopicOrPartitionError(TopicPartition("jobs", 3)), "no topic jobs."),
        (errors.UnknownTopicOrPartitionError(), "no topic requests."),
        (errors.MessageSizeTooLargeError(), "raise the topic's max.message.bytes"),
        (errors.UnsupportedCodecError("zstd"), "pip install cramjam"),
        (
            errors.InvalidReplicationFactorError("3 > 1"),
            "3 > 1 (InvalidReplicationFactorError). Correct PIPELINE_KAFKA",
        ),
        (ssl.SSLCertVerificationError("self-signed"), "PIPELINE_KAFKA__CA_FILE"),
        (expired(), "certificate has expired. Renew the server's certificate"),
        (TimeoutError(), "no answer in time"),
        (errors.CommitFailedError("late"), "CommitFailedError. Check"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_message_names_what_it_is_about_and_the_remedy(error: Exception, words: str) -> None:
    """In whatever shape aiokafka gives the names."""
    assert words in str(translate(error, where=WHERE))


@pytest.mark.parametrize(
    ("wrapped", "expected"),
    [
        (errors.KafkaError(repr(errors.TopicAuthorizationFailedError())), AccessDenied),
        (errors.KafkaError("GroupAuthorizationFailedError('g')"), AccessDenied),
        (errors.KafkaError("Unexpected error during batch delivery"), KafkaUnavailable),
        (errors.KafkaError(), KafkaUnavailable),
    ],
)
def test_an_error_in_an_errors_text_is_found(wrapped: Exception, expected: type[PipelineError]) -> None:
    """aiokafka has the habit of raising KafkaError(repr(error))."""
    assert kind_of(wrapped) is expected


def test_the_cause_of_a_bare_error_counts() -> None:
    """As does what it was raised from."""
    wrapped = errors.KafkaError("Unexpected error in sender routine")
    wrapped.__cause__ = errors.TopicAuthorizationFailedError("jobs")
    assert kind_of(wrapped) is AccessDenied
    assert "topic jobs" in str(translate(wrapped, where=WHERE))


def test_nothing_of_aiokafkas_crosses_the_border() -> None:
    """Errors of its own that aren't KafkaErrors don't either; what isn't its own stays what it is."""
    for error in (errors.ConsumerStoppedError(), errors.IllegalOperation("x"), errors.NodeNotReadyError(), OSError()):
        with pytest.raises(PipelineError), translated(WHERE):
            raise error
    with pytest.raises(KeyError), translated(WHERE):
        raise KeyError


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (errors.NodeNotReadyError("node 1 isn't ready."), "node 1 isn't ready (NodeNotReadyError). Check"),
        (errors.CommitFailedError(), ": CommitFailedError. Check"),
        (errors.StaleMetadata(), ": StaleMetadata. Check"),
        (errors.TopicAuthorizationFailedError(), ": Returned by the broker when the client"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_cause_is_short(error: Exception, cause: str) -> None:
    """Class names stand behind the words, and pages of advice for others are left out."""
    assert cause in str(translate(error, where=WHERE))
