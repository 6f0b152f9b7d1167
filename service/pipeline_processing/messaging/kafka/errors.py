"""
aiokafka's errors → this service's. Every error that it has a name for has its place here on purpose; a test holds that.

Messages name the brokers, give the cause in the words of aiokafka or the broker, and say what to do.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from ssl import SSLCertVerificationError, SSLError

from aiokafka import errors as kafka

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


class Fault(Enum):
    """What is wrong, as far as the caller's next step goes."""

    UNAVAILABLE = auto()
    ACCESS = auto()
    MISSING = auto()
    TOO_LARGE = auto()
    REFUSED = auto()
    MISCONFIGURED = auto()
    BUG = auto()


@dataclass(frozen=True, slots=True)
class Where:
    """What a message says it is about."""

    brokers: str
    topics: tuple[str, ...] = ()
    group: str | None = None


FAULTS: Mapping[type[Exception], Fault] = {
    # The network, and brokers that are busy with themselves.
    kafka.KafkaError: Fault.UNAVAILABLE,  # the base, with text of its own or of another error: see _unwrapped
    kafka.NoBrokersAvailable: Fault.UNAVAILABLE,
    kafka.NodeNotReadyError: Fault.UNAVAILABLE,
    kafka.KafkaProtocolError: Fault.UNAVAILABLE,
    kafka.CorrelationIdError: Fault.UNAVAILABLE,
    kafka.Cancelled: Fault.UNAVAILABLE,
    kafka.TooManyInFlightRequests: Fault.UNAVAILABLE,
    kafka.StaleMetadata: Fault.UNAVAILABLE,
    kafka.MetadataEmptyBrokerList: Fault.UNAVAILABLE,
    kafka.KafkaUnavailableError: Fault.UNAVAILABLE,
    kafka.KafkaTimeoutError: Fault.UNAVAILABLE,
    kafka.KafkaConnectionError: Fault.UNAVAILABLE,
    kafka.QuotaViolationError: Fault.UNAVAILABLE,
    kafka.UnknownError: Fault.UNAVAILABLE,  # the broker's own, or one that is newer than aiokafka
    kafka.CorruptRecordException: Fault.UNAVAILABLE,
    kafka.LeaderNotAvailableError: Fault.UNAVAILABLE,
    kafka.NotLeaderForPartitionError: Fault.UNAVAILABLE,
    kafka.RequestTimedOutError: Fault.UNAVAILABLE,
    kafka.BrokerNotAvailableError: Fault.UNAVAILABLE,
    kafka.ReplicaNotAvailableError: Fault.UNAVAILABLE,
    kafka.StaleControllerEpochError: Fault.UNAVAILABLE,
    kafka.StaleLeaderEpochCodeError: Fault.UNAVAILABLE,
    kafka.GroupLoadInProgressError: Fault.UNAVAILABLE,
    kafka.GroupCoordinatorNotAvailableError: Fault.UNAVAILABLE,
    kafka.NotCoordinatorForGroupError: Fault.UNAVAILABLE,
    kafka.NotEnoughReplicasError: Fault.UNAVAILABLE,
    kafka.NotEnoughReplicasAfterAppendError: Fault.UNAVAILABLE,
    kafka.NotControllerError: Fault.UNAVAILABLE,
    kafka.OperationNotAttempted: Fault.UNAVAILABLE,
    kafka.KafkaStorageError: Fault.UNAVAILABLE,
    kafka.LogDirNotFound: Fault.UNAVAILABLE,
    kafka.ReassignmentInProgress: Fault.UNAVAILABLE,
    kafka.FetchSessionIdNotFound: Fault.UNAVAILABLE,
    kafka.InvalidFetchSessionEpoch: Fault.UNAVAILABLE,
    kafka.ListenerNotFound: Fault.UNAVAILABLE,
    # A member that has been replaced, a producer that has to begin again. The adapters do so themselves.
    kafka.CommitFailedError: Fault.UNAVAILABLE,
    kafka.IllegalGenerationError: Fault.UNAVAILABLE,
    kafka.UnknownMemberIdError: Fault.UNAVAILABLE,
    kafka.RebalanceInProgressError: Fault.UNAVAILABLE,
    kafka.MemberIdRequired: Fault.UNAVAILABLE,
    kafka.ProducerClosed: Fault.UNAVAILABLE,
    kafka.ProducerFenced: Fault.UNAVAILABLE,
    kafka.OutOfOrderSequenceNumber: Fault.UNAVAILABLE,
    kafka.DuplicateSequenceNumber: Fault.UNAVAILABLE,
    kafka.InvalidProducerEpoch: Fault.UNAVAILABLE,
    kafka.InvalidProducerIdMapping: Fault.UNAVAILABLE,
    kafka.UnknownProducerId: Fault.UNAVAILABLE,
    kafka.ConcurrentTransactions: Fault.UNAVAILABLE,
    kafka.TransactionCoordinatorFenced: Fault.UNAVAILABLE,
    # Who we are, and what we may do.
    kafka.AuthenticationMethodNotSupported: Fault.ACCESS,
    kafka.AuthenticationFailedError: Fault.ACCESS,
    kafka.SaslAuthenticationFailed: Fault.ACCESS,
    kafka.TopicAuthorizationFailedError: Fault.ACCESS,
    kafka.GroupAuthorizationFailedError: Fault.ACCESS,
    kafka.ClusterAuthorizationFailedError: Fault.ACCESS,
    kafka.TransactionalIdAuthorizationFailed: Fault.ACCESS,
    kafka.DelegationTokenAuthDisabled: Fault.ACCESS,
    kafka.DelegationTokenNotFound: Fault.ACCESS,
    kafka.DelegationTokenOwnerMismatch: Fault.ACCESS,
    kafka.DelegationTokenRequestNotAllowed: Fault.ACCESS,
    kafka.DelegationTokenAuthorizationFailed: Fault.ACCESS,
    kafka.DelegationTokenExpired: Fault.ACCESS,
    kafka.InvalidPrincipalType: Fault.ACCESS,
    # Topics and messages.
    kafka.UnknownTopicOrPartitionError: Fault.MISSING,
    kafka.MessageSizeTooLargeError: Fault.TOO_LARGE,
    kafka.RecordListTooLargeError: Fault.TOO_LARGE,
    kafka.InvalidTimestampError: Fault.REFUSED,
    # Settings: ours, or the brokers'.
    kafka.UnrecognizedBrokerVersion: Fault.MISCONFIGURED,
    kafka.IncompatibleBrokerVersion: Fault.MISCONFIGURED,
    kafka.UnsupportedVersionError: Fault.MISCONFIGURED,
    kafka.UnsupportedForMessageFormatError: Fault.MISCONFIGURED,
    kafka.UnsupportedCodecError: Fault.MISCONFIGURED,
    kafka.KafkaConfigurationError: Fault.MISCONFIGURED,
    kafka.UnsupportedSaslMechanismError: Fault.MISCONFIGURED,
    kafka.IllegalSaslStateError: Fault.MISCONFIGURED,
    kafka.SecurityDisabled: Fault.MISCONFIGURED,
    kafka.InvalidTopicError: Fault.MISCONFIGURED,
    kafka.InvalidGroupIdError: Fault.MISCONFIGURED,
    kafka.InconsistentGroupProtocolError: Fault.MISCONFIGURED,
    kafka.InvalidSessionTimeoutError: Fault.MISCONFIGURED,
    kafka.InvalidPartitionsError: Fault.MISCONFIGURED,
    kafka.InvalidReplicationFactorError: Fault.MISCONFIGURED,
    kafka.InvalidReplicationAssignmentError: Fault.MISCONFIGURED,
    kafka.InvalidConfigurationError: Fault.MISCONFIGURED,
    kafka.PolicyViolationError: Fault.MISCONFIGURED,
    # What we should not have asked for.
    kafka.BrokerResponseError: Fault.BUG,
    kafka.NoError: Fault.BUG,
    kafka.IllegalStateError: Fault.BUG,
    kafka.IllegalArgumentError: Fault.BUG,
    kafka.IllegalOperation: Fault.BUG,
    kafka.ConsumerStoppedError: Fault.BUG,
    kafka.NoOffsetForPartitionError: Fault.BUG,
    kafka.OffsetOutOfRangeError: Fault.BUG,
    kafka.RecordTooLargeError: Fault.BUG,  # a fetch too small for it, which brokers have since stopped to mind
    kafka.InvalidFetchRequestError: Fault.BUG,
    kafka.OffsetMetadataTooLargeError: Fault.BUG,
    kafka.InvalidCommitOffsetSizeError: Fault.BUG,
    kafka.InvalidRequiredAcksError: Fault.BUG,
    kafka.InvalidRequestError: Fault.BUG,
    kafka.TopicAlreadyExistsError: Fault.BUG,
    kafka.InvalidTxnState: Fault.BUG,
    kafka.InvalidTransactionTimeout: Fault.BUG,
    kafka.NonEmptyGroup: Fault.BUG,
    kafka.GroupIdNotFound: Fault.BUG,
}

_REMEDIES: Mapping[type[BaseException], str] = {
    kafka.UnsupportedCodecError: "Install the codec: pip install cramjam.",
    kafka.UnsupportedSaslMechanismError: "Correct PIPELINE_KAFKA__SASL_MECHANISM.",
    kafka.IllegalSaslStateError: "Correct PIPELINE_KAFKA__SECURITY_PROTOCOL, or the port.",
    kafka.SecurityDisabled: "Correct PIPELINE_KAFKA__SECURITY_PROTOCOL, or the port.",
    kafka.InvalidTopicError: "Correct PIPELINE_KAFKA__…_TOPIC.",
    kafka.InvalidGroupIdError: "Correct PIPELINE_KAFKA__GROUP_ID.",
    kafka.InconsistentGroupProtocolError: (
        "Another kind of consumer uses the group: give this service one of its own with PIPELINE_KAFKA__GROUP_ID."
    ),
    kafka.InvalidPartitionsError: "Correct PIPELINE_KAFKA__PARTITIONS.",
    kafka.InvalidReplicationFactorError: "Correct PIPELINE_KAFKA__REPLICATION_FACTOR.",
    kafka.UnsupportedVersionError: "Upgrade the brokers: this service needs Kafka 2.4 or later.",
    kafka.IncompatibleBrokerVersion: "Upgrade the brokers: this service needs Kafka 2.4 or later.",
    kafka.UnrecognizedBrokerVersion: "Upgrade the brokers: this service needs Kafka 2.4 or later.",
    SSLCertVerificationError: (
        "Set PIPELINE_KAFKA__CA_FILE to the certificate of the authority that signed the brokers', and use the names "
        "that stand in those."
    ),
    SSLError: "Check that the port speaks TLS as PIPELINE_KAFKA__SECURITY_PROTOCOL says.",
}
_LOOK_HERE = "Check that it is up, and that PIPELINE_KAFKA__BOOTSTRAP_SERVERS and __SECURITY_PROTOCOL are right."
_CANDIDATES = (kafka.KafkaError, kafka.ConsumerStoppedError, kafka.IllegalOperation, OSError)
_NAMED = re.compile(r"[\s(\"']*(?:\[Error -?\d+\] )?(\w+)")


@contextmanager
def translated(where: Where) -> Iterator[None]:
    """Turn aiokafka's errors in the block, and a time limit's, into this service's. For aiokafka's calls only."""
    try:
        yield
    except _CANDIDATES as error:
        raise translate(error, where=where) from error


def fault_of(error: BaseException) -> Fault:
    """What is wrong. Anything that isn't aiokafka's or the network's is a bug."""
    error = _unwrapped(error)
    if isinstance(error, SSLCertVerificationError):
        return Fault.MISCONFIGURED
    if isinstance(error, OSError):  # TimeoutError is one
        return Fault.UNAVAILABLE
    return next((FAULTS[kind] for kind in type(error).__mro__ if kind in FAULTS), Fault.BUG)


def translate(error: BaseException, *, where: Where) -> PipelineError:
    """The error as this service tells it."""
    error = _unwrapped(error)
    cause = cause_of(error)
    remedy = next((_REMEDIES[kind] for kind in type(error).__mro__ if kind in _REMEDIES), None)
    match fault_of(error):
        case Fault.UNAVAILABLE:
            return KafkaUnavailable(
                f"Kafka at {where.brokers} can't be reached, or broke off: {cause}. {remedy or _LOOK_HERE}"
            )
        case Fault.ACCESS:
            return AccessDenied(
                f"Kafka at {where.brokers} refuses access{_to_what(error, where)}: {cause}. Check "
                "PIPELINE_KAFKA__USERNAME and __PASSWORD, or __CERT_FILE, and grant that identity what it needs."
            )
        case Fault.MISSING:
            return TopicMissing(_named_in(error) or where.topics or ["of that name"])
        case Fault.TOO_LARGE:
            return MessageTooLarge(
                f"Kafka at {where.brokers} refuses a message{_to_what(error, where)} for its size: {cause}. Send less, "
                "or raise the topic's max.message.bytes."
            )
        case Fault.REFUSED:
            return refusal(error, where=where)
        case Fault.MISCONFIGURED:
            return SettingsError(
                f"Kafka at {where.brokers} can't be used: {cause}. {remedy or 'Correct the settings, or the brokers.'}"
            )
        case Fault.BUG:
            return InternalError(error)


def refusal(error: BaseException, *, where: Where) -> MessageRefused:
    """For what a broker answers to a message that it will never take."""
    topic = f" to the topic {', '.join(where.topics)}" if where.topics else ""
    return MessageRefused(
        f"Kafka at {where.brokers} refuses a message{topic} for good: {cause_of(error)}. Check the topic's "
        "configuration: a compacted one wants keys, and one that limits timestamps wants clocks that agree."
    )


def cause_of(error: BaseException) -> str:
    """The error in aiokafka's own words, or the operating system's."""
    if isinstance(error, kafka.KafkaError):
        # str() of these begins with the class; the commit error's text is a page.
        text = "" if isinstance(error, kafka.CommitFailedError) else " ".join(map(str, error.args))
        described = text or getattr(error, "description", "")
        name = type(error).__name__
        return f"{described.strip().rstrip('.')} ({name})" if described else name
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return str(error) or type(error).__name__


def _unwrapped(error: BaseException) -> BaseException:
    """The error inside a bare KafkaError, in which aiokafka wraps some others, as a cause or as text."""
    if type(error) is not kafka.KafkaError:
        return error
    if isinstance(error.__cause__, _CANDIDATES):
        return _unwrapped(error.__cause__)
    name = _NAMED.match(str(error.args[0])) if error.args else None
    kind = getattr(kafka, name[1], None) if name else None
    if isinstance(kind, type) and issubclass(kind, kafka.KafkaError) and kind is not kafka.KafkaError:
        return kind(*error.args)
    return error


def _to_what(error: BaseException, where: Where) -> str:
    if isinstance(error, kafka.GroupAuthorizationFailedError):
        return f" to the group {where.group or ', '.join(_named_in(error))}"
    if isinstance(error, kafka.TopicAuthorizationFailedError):
        return f" to the topic {', '.join(_named_in(error) or where.topics)}"
    if isinstance(error, kafka.ClusterAuthorizationFailedError):
        return " to the cluster (sending needs IdempotentWrite there, or Write on any topic)"
    if isinstance(error, kafka.MessageSizeTooLargeError | kafka.RecordListTooLargeError) and where.topics:
        return f" to the topic {', '.join(where.topics)}"
    return ""


def _named_in(error: BaseException) -> Sequence[str]:
    """Topics or groups that aiokafka names, as it does in several shapes."""
    (first, *_) = error.args or ("",)
    if isinstance(first, str):
        return [first] if re.fullmatch(r"[\w.-]+", first) else []
    topic = getattr(first, "topic", None)
    if topic is not None:
        return [str(topic)]
    return sorted(map(str, first)) if isinstance(first, Collection) else []
