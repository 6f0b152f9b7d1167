"""Every error of botocore and aiohttp has a place among ours."""

from __future__ import annotations

import inspect

import aiohttp
import pytest
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from pipeline_processing.destinations.s3 import errors
from pipeline_processing.errors import (
    AccessDenied,
    BucketMissing,
    DestinationUnavailable,
    InternalError,
    SettingsError,
    Throttled,
)
from pipeline_processing.runs.failures import final_error

SETTINGS = """
    ApiVersionNotFoundError BaseEndpointResolverError ConfigNotFound ConfigParseError EndpointProviderError
    EndpointResolutionError EndpointVariantError InfiniteLoopConfigError InvalidChecksumConfigError InvalidConfigError
    InvalidDNSNameError InvalidDefaultsMode InvalidEndpointConfigurationError
    InvalidEndpointDiscoveryConfigurationError InvalidHostLabelError InvalidIMDSEndpointError
    InvalidIMDSEndpointModeError InvalidMaxRetryAttemptsError InvalidProxiesConfigError InvalidRetryConfigurationError
    InvalidRetryModeError InvalidS3AddressingStyleError InvalidS3UsEast1RegionalEndpointConfigError
    InvalidSTSRegionalEndpointsConfigError MissingDependencyException NoRegionError ProfileNotFound
    ServiceNotInRegionError UnknownEndpointError UnknownEndpointResolutionBuiltInName UnknownFIPSEndpointError
    UnknownRegionError UnknownSignatureVersionError UnsupportedOutpostResourceError
    UnsupportedS3AccesspointConfigurationError UnsupportedS3ArnError UnsupportedS3ConfigurationError
    UnsupportedS3ControlArnError UnsupportedS3ControlConfigurationError UnsupportedSignatureVersionError
"""
"""Errors of botocore about its settings: they have no place of their own."""
NEVER = """
    DataNotFoundError InvalidExpressionError MD5UnavailableError MissingParametersError OperationNotPageableError
    PaginationError StubAssertionError StubResponseError UnStubbedResponseError UnknownClientMethodError
    UnknownServiceError UnknownServiceStyle UnsupportedServiceProtocolsError WaiterConfigError WaiterError
"""
"""Errors of features that the client doesn't use."""


def test_every_botocore_error_has_a_place() -> None:
    """A new error of a later botocore fails here until somebody has decided. Meanwhile it is about the settings."""
    without = [
        name
        for name, kind in inspect.getmembers(boto, inspect.isclass)
        if issubclass(kind, boto.BotoCoreError)
        and kind is not boto.BotoCoreError
        and next(ancestor for ancestor in kind.__mro__ if ancestor in errors.ERRORS) is boto.BotoCoreError
    ]
    assert sorted(without) == sorted((SETTINGS + NEVER).split())


def test_other_botocore_errors_are_translated_too() -> None:
    """Those that aren't BotoCoreErrors."""
    others = [
        kind
        for _, kind in inspect.getmembers(boto, inspect.isclass)
        if issubclass(kind, Exception) and not issubclass(kind, Warning | boto.BotoCoreError | boto.ClientError)
    ]
    assert others
    assert all(issubclass(kind, tuple(errors.ERRORS)) for kind in others)


@pytest.mark.parametrize(
    "kind",
    [kind for _, kind in inspect.getmembers(aiohttp, inspect.isclass) if issubclass(kind, aiohttp.ClientError)],
)
def test_every_aiohttp_error_is_an_unavailable_destination(kind: type[Exception]) -> None:
    """aiobotocore wraps most of them, and lets some through while a body is read."""
    assert next(errors.ERRORS[each] for each in kind.__mro__ if each in errors.ERRORS) is DestinationUnavailable


def refusal(code: str, status: int) -> boto.ClientError:
    return boto.ClientError(
        {"Error": {"Code": code, "Message": "words"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (boto.EndpointConnectionError(endpoint_url="http://x", error="e"), DestinationUnavailable),
        (boto.ConnectTimeoutError(endpoint_url="http://x", error="e"), DestinationUnavailable),
        (boto.ReadTimeoutError(endpoint_url="http://x", error="e"), DestinationUnavailable),
        (boto.ConnectionClosedError(endpoint_url="http://x"), DestinationUnavailable),
        (boto.SSLError(endpoint_url="http://x", error="e"), DestinationUnavailable),
        (TimeoutError(), DestinationUnavailable),
        (boto.NoCredentialsError(), AccessDenied),
        (boto.PartialCredentialsError(provider="env", cred_var="x"), AccessDenied),
        (boto.NoRegionError(), SettingsError),
        (boto.ProfileNotFound(profile="x"), SettingsError),
        (boto.ParamValidationError(report="x"), InternalError),
        (refusal("SlowDown", 503), Throttled),
        (refusal("ServiceUnavailable", 503), DestinationUnavailable),
        (refusal("InternalError", 500), DestinationUnavailable),
        (refusal("Whatever", 429), Throttled),
        (refusal("AccessDenied", 403), AccessDenied),
        (refusal("403", 403), AccessDenied),
        (refusal("InvalidAccessKeyId", 403), AccessDenied),
        (refusal("SignatureDoesNotMatch", 403), AccessDenied),
        (refusal("KMS.DisabledException", 400), AccessDenied),
        (refusal("NoSuchBucket", 404), BucketMissing),
        (refusal("PermanentRedirect", 301), SettingsError),
        (refusal("NoSuchKey", 404), errors.ObjectMissing),
        (refusal("404", 404), errors.ObjectMissing),
        (refusal("NoSuchUpload", 404), errors.UploadGone),
        (refusal("InvalidPart", 400), errors.UploadGone),
        (refusal("PreconditionFailed", 412), errors.AlreadyThere),
        (refusal("ConditionalRequestConflict", 409), errors.ConditionalConflict),
        (refusal("NotImplemented", 501), errors.Unsupported),
        (refusal("MalformedXML", 400), SettingsError),
        (refusal("InvalidRequest", 400), SettingsError),
        (refusal("413", 413), SettingsError),
        (refusal("418", 418), SettingsError),
        (refusal("302", 302), DestinationUnavailable),
        (refusal("InternalError", 200), DestinationUnavailable),
        (refusal("RequestTimeout", 400), DestinationUnavailable),
        (refusal("OperationAborted", 409), DestinationUnavailable),
        (refusal("QuotaExceeded", 403), DestinationUnavailable),
        (refusal("XMinioAdminBucketQuotaExceeded", 400), DestinationUnavailable),
        (refusal("KMS.ThrottlingException", 400), Throttled),
        (refusal("KMS.InternalException", 500), DestinationUnavailable),
        (refusal("ExpiredToken", 400), errors.CredentialsExpired),
        (refusal("TokenRefreshRequired", 400), errors.CredentialsExpired),
        (refusal("InvalidToken", 400), AccessDenied),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)[:40]),
)
def test_the_type_says_what_to_do_next(error: Exception, kind: type[Exception]) -> None:
    """Retry, stop, mend the settings, or an answer that the destination handles."""
    assert type(errors.translation(error, doing="write", url="s3://b/k")) is kind


def test_an_answer_that_cant_be_read_isnt_quoted() -> None:
    """That of STS, cut short, holds credentials."""
    cause = "Unable to parse response (no element found), invalid XML received. Further retries may succeed:"
    error = ResponseParserError(f"{cause}\nb'<Credentials><SecretAccessKey>s3cret'")
    told = str(errors.translation(error, doing="assume the role", url="r"))
    assert "no element found" in told
    assert "s3cret" not in told


def test_expired_credentials_are_tried_again_before_access_is_denied() -> None:
    """A role's are renewed, and those of a machine."""
    error = errors.translation(refusal("ExpiredToken", 400), doing="write", url="s3://b/k")
    assert isinstance(error, AccessDenied)
    assert error.retryable
    assert final_error(error, 5) is error
    assert (error.kind, error.exit_code) == ("access_denied", 77)


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        boto.NoCredentialsError(),
        boto.NoRegionError(),
        refusal("SlowDown", 503),
        refusal("NoSuchBucket", 404),
    ],
)
def test_messages_tell_cause_place_and_remedy(error: Exception) -> None:
    """What was being done, to which URL, and what to mend."""
    message = str(errors.translation(error, doing="write", url="s3://b/k"))
    assert message.startswith("Can't write s3://b/k: ")
    assert "PIPELINE_" in message


def test_a_password_in_a_url_is_masked() -> None:
    """Endpoint and proxy URLs may hold one."""
    error = boto.EndpointConnectionError(endpoint_url="http://user:hunter2@proxy:8080/", error="e")
    assert "hunter2" not in str(errors.translation(error, doing="write", url="s3://b/k"))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (refusal("NoSuchKey", 404), "This is retried"),
        (refusal("NoSuchUpload", 404), "This is retried"),
        (refusal("PreconditionFailed", 412), "This is retried"),
        (refusal("NotImplemented", 501), "must support"),
    ],
    ids=str,
)
def test_an_answer_that_is_not_handled_has_a_remedy(error: Exception, words: str) -> None:
    """It crosses the port as an error that the core knows."""
    assert words in str(errors.translation(error, doing="write", url="s3://b/k"))


@pytest.mark.parametrize(("header", "seconds"), [("30", 30.0), ("soon", None), (None, None)])
def test_a_store_may_ask_to_be_left_alone(header: str | None, seconds: float | None) -> None:
    """Or a gateway before it: the run isn't tried again before."""
    error = refusal("SlowDown", 503)
    error.response["ResponseMetadata"]["HTTPHeaders"] = {} if header is None else {"retry-after": header}
    told = errors.translation(error, doing="write", url="s3://b/k")
    assert isinstance(told, Throttled)
    assert told.retry_after == seconds
