"""
Translate aiokafka's errors. A test lists those that are mapped only by a base class.

Messages name the brokers, quote the cause from aiokafka or the broker, and give the remedy.
"""

import asyncio
import re
from collections.abc import Awaitable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ssl import SSLCertVerificationError, SSLError
from typing import TypeVar

from aiokafka import errors as kafka

from pipeline_processing.certificates import has_expired, refusal_of_ours, remedy_for_server
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

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Where:
    """The brokers, topics and group that a message names."""

    brokers: str
    topics: tuple[str, ...] = ()
    group: str | None = None


KINDS: Mapping[type[BaseException], type[PipelineError]] = {
    # The network, brokers that are electing or starting, a replaced group member, a producer that must be reopened.
    # Most errors belong here, and so do those of later versions of aiokafka or the brokers.
    kafka.KafkaError: KafkaUnavailable,
    OSError: KafkaUnavailable,  # TimeoutError is one
    # Authentication and authorization.
    kafka.AuthenticationMethodNotSupported: AccessDenied,
    kafka.AuthenticationFailedError: AccessDenied,
    kafka.SaslAuthenticationFailed: AccessDenied,
    kafka.TopicAuthorizationFailedError: AccessDenied,
    kafka.GroupAuthorizationFailedError: AccessDenied,
    kafka.ClusterAuthorizationFailedError: AccessDenied,
    # Topics and messages.
    kafka.UnknownTopicOrPartitionError: TopicMissing,
    kafka.MessageSizeTooLargeError: MessageTooLarge,
    kafka.RecordListTooLargeError: MessageTooLarge,
    kafka.InvalidTimestampError: MessageRefused,
    # This service's settings, or the brokers'.
    SSLCertVerificationError: SettingsError,
    kafka.UnrecognizedBrokerVersion: SettingsError,
    kafka.IncompatibleBrokerVersion: SettingsError,
    kafka.UnsupportedVersionError: SettingsError,
    kafka.UnsupportedForMessageFormatError: SettingsError,
    kafka.UnsupportedCodecError: SettingsError,
    kafka.KafkaConfigurationError: SettingsError,
    kafka.UnsupportedSaslMechanismError: SettingsError,
    kafka.IllegalSaslStateError: SettingsError,
    kafka.SecurityDisabled: SettingsError,
    kafka.InvalidTopicError: SettingsError,
    kafka.InvalidGroupIdError: SettingsError,
    kafka.InconsistentGroupProtocolError: SettingsError,
    kafka.InvalidSessionTimeoutError: SettingsError,
    kafka.InvalidPartitionsError: SettingsError,
    kafka.InvalidReplicationFactorError: SettingsError,
    kafka.InvalidReplicationAssignmentError: SettingsError,
    kafka.InvalidConfigurationError: SettingsError,
    kafka.PolicyViolationError: SettingsError,
    # Bugs of this service.
    kafka.IllegalStateError: InternalError,
    kafka.IllegalArgumentError: InternalError,
    kafka.NoOffsetForPartitionError: InternalError,
    kafka.OffsetOutOfRangeError: InternalError,
    kafka.OffsetMetadataTooLargeError: InternalError,
    kafka.InvalidCommitOffsetSizeError: InternalError,
    kafka.InvalidFetchRequestError: InternalError,
    kafka.InvalidRequiredAcksError: InternalError,
    kafka.InvalidRequestError: InternalError,
    kafka.TopicAlreadyExistsError: InternalError,
}

_OLD_BROKERS = "Upgrade the brokers: this service needs Kafka 2.4 or later."
_PROTOCOL_OR_PORT = "Correct PIPELINE_KAFKA__SECURITY_PROTOCOL, or the port."
_CERTIFICATE_REFUSED = (
    "Set PIPELINE_KAFKA__CERT_FILE and __KEY_FILE to a certificate that hasn't expired, from an authority that the "
    "brokers trust."
)
_REMEDIES: Mapping[type[BaseException], str] = {
    kafka.UnsupportedCodecError: "Install the codec: pip install cramjam.",
    kafka.UnsupportedSaslMechanismError: "Correct PIPELINE_KAFKA__SASL_MECHANISM.",
    kafka.IllegalSaslStateError: _PROTOCOL_OR_PORT,
    kafka.SecurityDisabled: _PROTOCOL_OR_PORT,
    kafka.InvalidTopicError: "Correct PIPELINE_KAFKA__…_TOPIC.",
    kafka.InvalidGroupIdError: "Correct PIPELINE_KAFKA__GROUP_ID.",
    kafka.InconsistentGroupProtocolError: (
        "Another kind of consumer uses the group: set PIPELINE_KAFKA__GROUP_ID to a separate group for this service."
    ),
    kafka.InvalidPartitionsError: "Correct PIPELINE_KAFKA__PARTITIONS.",
    kafka.InvalidReplicationFactorError: "Correct PIPELINE_KAFKA__REPLICATION_FACTOR.",
    kafka.UnsupportedVersionError: _OLD_BROKERS,
    kafka.IncompatibleBrokerVersion: _OLD_BROKERS,
    kafka.UnrecognizedBrokerVersion: _OLD_BROKERS,
    SSLError: "Check that the port speaks TLS as PIPELINE_KAFKA__SECURITY_PROTOCOL says.",
}
_TEXTS: Mapping[type[PipelineError], tuple[str, str]] = {
    KafkaUnavailable: (
        "can't be reached, or broke off",
        "Check that it is up, and that PIPELINE_KAFKA__BOOTSTRAP_SERVERS and __SECURITY_PROTOCOL are right.",
    ),
    AccessDenied: (
        "refuses access{what}",
        "Check PIPELINE_KAFKA__USERNAME and __PASSWORD, or __CERT_FILE, and grant that identity what it needs.",
    ),
    MessageTooLarge: (
        "refuses a message{what} because of its size",
        "Send less, or raise the topic's max.message.bytes.",
    ),
    SettingsError: ("can't be used", "Correct the settings, or the brokers."),
}
"""Kind → what the brokers did, and the remedy for errors without a more specific one."""

_CANDIDATES = (kafka.KafkaError, kafka.ConsumerStoppedError, kafka.IllegalOperation, OSError)
_NAMED = re.compile(r"[\s(\"']*(?:\[Error -?\d+\] )?(\w+)")


@contextmanager
def translated(where: Where) -> Iterator[None]:
    """Translate aiokafka's errors and TimeoutError in the block. It must contain nothing but aiokafka calls."""
    try:
        yield
    except _CANDIDATES as error:
        raise translate(error, where=where) from error


async def answered(question: Awaitable[T], *, where: Where, seconds: float) -> T:
    """Await the brokers' answer for at most `seconds`, and translate errors."""
    with translated(where):
        async with asyncio.timeout(seconds):
            return await question


def kind_of(error: BaseException) -> type[PipelineError]:
    """Return this service's error class for `error`. An error that isn't aiokafka's or the network's is a bug."""
    if refusal_of_ours(error):
        return AccessDenied
    error = _unwrapped(error)
    if isinstance(error, SSLCertVerificationError) and has_expired(error):
        return KafkaUnavailable  # it may be renewed any minute
    return next((KINDS[kind] for kind in type(error).__mro__ if kind in KINDS), InternalError)


def translate(error: BaseException, *, where: Where) -> PipelineError:
    """Return the error to raise instead of `error`."""
    error = _unwrapped(error)
    kind = kind_of(error)
    if kind is TopicMissing:
        return TopicMissing(_named_in(error) or where.topics or ["of that name"])
    if kind is MessageRefused:
        return refusal(error, where=where)
    if kind is InternalError:
        return InternalError(error)
    text, remedy = _TEXTS[kind]
    remedy = _remedy(error) or remedy
    done = text.format(what=_what(error, where))
    return kind(f"Kafka at {where.brokers} {done}: {_cause_of(error)}. {remedy}")


def _remedy(error: BaseException) -> str | None:
    if refusal_of_ours(error):
        return _CERTIFICATE_REFUSED
    if isinstance(error, SSLCertVerificationError):
        names = "PIPELINE_KAFKA__BOOTSTRAP_SERVERS and the brokers' advertised listeners"
        return remedy_for_server(error, authorities="PIPELINE_KAFKA__CA_FILE", names=names)
    return next((_REMEDIES[each] for each in type(error).__mro__ if each in _REMEDIES), None)


def refusal(error: BaseException, *, where: Where) -> MessageRefused:
    """Return the error for a message that a broker permanently refuses."""
    return MessageRefused(
        f"Kafka at {where.brokers} refuses a message{_topics(where.topics)} for good: {_cause_of(error)}. Check the "
        "topic's configuration: a compacted topic needs keys, and one that limits timestamps needs synchronized clocks."
    )


def _cause_of(error: BaseException) -> str:
    """Return the error's text, as aiokafka or the operating system words it."""
    if isinstance(error, kafka.KafkaError):
        # str() of these begins with the class name, and the commit error's text is a page long.
        text = "" if isinstance(error, kafka.CommitFailedError) else " ".join(map(str, error.args))
        described = text or getattr(error, "description", "")
        name = type(error).__name__
        return f"{described.strip().rstrip('.')} ({name})" if described else name
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return str(error) or type(error).__name__


def _unwrapped(error: BaseException) -> BaseException:
    """Return the error inside a bare KafkaError, in which aiokafka wraps some errors, as cause or as text."""
    if type(error) is not kafka.KafkaError:
        return error
    if isinstance(error.__cause__, _CANDIDATES):
        return _unwrapped(error.__cause__)
    name = _NAMED.match(str(error.args[0])) if error.args else None
    kind = getattr(kafka, name[1], None) if name else None
    if isinstance(kind, type) and issubclass(kind, kafka.KafkaError) and kind is not kafka.KafkaError:
        return kind(*error.args)
    return error


def _what(error: BaseException, where: Where) -> str:
    """Describe what was refused, as far as known."""
    match error:
        case kafka.GroupAuthorizationFailedError():
            return f" to the group {where.group or ', '.join(_named_in(error))}"
        case kafka.TopicAuthorizationFailedError():
            return _topics(_named_in(error) or where.topics)
        case kafka.ClusterAuthorizationFailedError():
            return " to the cluster (sending needs IdempotentWrite there, or Write on any topic)"
        case kafka.MessageSizeTooLargeError() | kafka.RecordListTooLargeError():
            return _topics(where.topics)
    return ""


def _topics(names: Sequence[str]) -> str:
    return f" to the topic {', '.join(names)}" if names else ""


def _named_in(error: BaseException) -> Sequence[str]:
    """Return the topics or groups that the error names, in any of aiokafka's forms."""
    (first, *_) = error.args or ("",)
    if isinstance(first, str):
        return [first] if re.fullmatch(r"[\w.-]+", first) else []
    topic = getattr(first, "topic", None)
    if topic is not None:
        return [str(topic)]
    return sorted(map(str, first)) if isinstance(first, Collection) else []
