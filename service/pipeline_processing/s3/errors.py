"""
Translation of what botocore, aiobotocore and aiohttp raise. None of their exceptions leaves this package.

    PipelineError             DestinationUnavailable, Throttled, AccessDenied, BucketMissing, SettingsError,
                              InternalError
    S3Answer                  an answer that the destination handles itself
    ├── ObjectMissing         404: no such object
    ├── UploadGone            no such multipart upload, or none with these parts
    ├── AlreadyThere          412: If-None-Match found an object
    ├── ConditionalConflict   409: another conditional write is under way
    └── Unsupported           501: the store doesn't know something in the request, such as If-None-Match
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import aiohttp
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from pipeline_processing.errors import (
    AccessDenied,
    BucketMissing,
    DestinationUnavailable,
    InternalError,
    PipelineError,
    SettingsError,
    Throttled,
)


class S3Answer(Exception):
    """Base of the answers that the destination handles."""


class ObjectMissing(S3Answer):
    """No such object. HEAD says the same of a missing bucket."""


class UploadGone(S3Answer):
    """The multipart upload was completed or aborted, or its parts aren't those of the plan."""


class AlreadyThere(S3Answer):
    """If-None-Match found an object with this key."""


class ConditionalConflict(S3Answer):
    """Another conditional write of this key is under way."""


class Unsupported(S3Answer):
    """The store doesn't implement something in the request, such as If-None-Match."""


ERRORS: Mapping[type[Exception], type[PipelineError]] = {
    # The network, or a server that broke off. A failed TLS handshake is here, too: its message names the
    # cause.
    boto.HTTPClientError: DestinationUnavailable,
    boto.ConnectionError: DestinationUnavailable,
    boto.IncompleteReadError: DestinationUnavailable,
    boto.ChecksumError: DestinationUnavailable,
    boto.FlexibleChecksumError: DestinationUnavailable,
    boto.AwsChunkedWrapperError: DestinationUnavailable,
    boto.CapacityNotAvailableError: DestinationUnavailable,
    ResponseParserError: DestinationUnavailable,
    aiohttp.ClientError: DestinationUnavailable,
    OSError: DestinationUnavailable,  # TimeoutError is one
    # The servers that hand out credentials.
    boto.MetadataRetrievalError: DestinationUnavailable,
    boto.CredentialRetrievalError: DestinationUnavailable,
    boto.TokenRetrievalError: DestinationUnavailable,
    # Credentials.
    boto.NoCredentialsError: AccessDenied,
    boto.PartialCredentialsError: AccessDenied,
    boto.UnknownCredentialError: AccessDenied,
    boto.NoAuthTokenError: AccessDenied,
    boto.UnknownTokenProviderError: AccessDenied,
    boto.RefreshWithMFAUnsupportedError: AccessDenied,
    boto.SSOError: AccessDenied,
    boto.LoginError: AccessDenied,
    # Settings: ours, or those of the AWS chain.
    boto.BaseEndpointResolverError: SettingsError,
    boto.EndpointProviderError: SettingsError,
    boto.ConfigNotFound: SettingsError,
    boto.ConfigParseError: SettingsError,
    boto.ProfileNotFound: SettingsError,
    boto.InvalidConfigError: SettingsError,
    boto.InvalidChecksumConfigError: SettingsError,
    boto.InvalidDefaultsMode: SettingsError,
    boto.InvalidDNSNameError: SettingsError,
    boto.InvalidEndpointConfigurationError: SettingsError,
    boto.InvalidEndpointDiscoveryConfigurationError: SettingsError,
    boto.InvalidHostLabelError: SettingsError,
    boto.InvalidIMDSEndpointError: SettingsError,
    boto.InvalidIMDSEndpointModeError: SettingsError,
    boto.InvalidProxiesConfigError: SettingsError,
    boto.InvalidRegionError: SettingsError,
    boto.InvalidRetryConfigurationError: SettingsError,
    boto.InvalidS3AddressingStyleError: SettingsError,
    boto.InvalidS3UsEast1RegionalEndpointConfigError: SettingsError,
    boto.InvalidSTSRegionalEndpointsConfigError: SettingsError,
    boto.MissingDependencyException: SettingsError,
    boto.ServiceNotInRegionError: SettingsError,
    boto.UnknownRegionError: SettingsError,
    boto.UnknownSignatureVersionError: SettingsError,
    boto.UnsupportedSignatureVersionError: SettingsError,
    boto.UnsupportedOutpostResourceError: SettingsError,
    boto.UnsupportedS3AccesspointConfigurationError: SettingsError,
    boto.UnsupportedS3ArnError: SettingsError,
    boto.UnsupportedS3ConfigurationError: SettingsError,
    boto.UnsupportedS3ControlArnError: SettingsError,
    boto.UnsupportedS3ControlConfigurationError: SettingsError,
    # A request that we should not have made.
    boto.ApiVersionNotFoundError: InternalError,
    boto.DataNotFoundError: InternalError,
    boto.EventStreamError: InternalError,
    boto.InvalidExpressionError: InternalError,
    boto.MD5UnavailableError: InternalError,
    boto.MissingParametersError: InternalError,
    boto.OperationNotPageableError: InternalError,
    boto.PaginationError: InternalError,
    boto.ParamValidationError: InternalError,
    boto.StubResponseError: InternalError,
    boto.UndefinedModelAttributeError: InternalError,
    boto.UnknownClientMethodError: InternalError,
    boto.UnknownServiceStyle: InternalError,
    boto.UnseekableStreamError: InternalError,
    boto.UnsupportedServiceProtocolsError: InternalError,
    boto.ValidationError: InternalError,
    boto.WaiterConfigError: InternalError,
    boto.WaiterError: InternalError,
    boto.BotoCoreError: InternalError,  # one that a later botocore adds; a test asks for its place here
}

CODES: Mapping[str, type[PipelineError] | type[S3Answer]] = {
    "SlowDown": Throttled,
    "SlowDownRead": Throttled,
    "SlowDownWrite": Throttled,
    "Throttling": Throttled,
    "ThrottlingException": Throttled,
    "ThrottledException": Throttled,
    "RequestThrottled": Throttled,
    "RequestThrottledException": Throttled,
    "RequestLimitExceeded": Throttled,
    "BandwidthLimitExceeded": Throttled,
    "TooManyRequests": Throttled,
    "TooManyRequestsException": Throttled,
    "NoSuchBucket": BucketMissing,
    "NoSuchKey": ObjectMissing,
    "NoSuchUpload": UploadGone,
    "InvalidPart": UploadGone,
    "PreconditionFailed": AlreadyThere,
    "ConditionalRequestConflict": ConditionalConflict,
    "NotImplemented": Unsupported,
    "InvalidEncryptionAlgorithmError": SettingsError,
    "InvalidStorageClass": SettingsError,
    "InvalidTag": SettingsError,
    "AccessDenied": AccessDenied,
    "AccountProblem": AccessDenied,
    "AllAccessDisabled": AccessDenied,
    "AuthorizationHeaderMalformed": SettingsError,  # signed for another region
    "ExpiredToken": AccessDenied,
    "InvalidAccessKeyId": AccessDenied,
    "InvalidToken": AccessDenied,
    "RequestExpired": AccessDenied,
    "RequestTimeTooSkewed": AccessDenied,
    "SignatureDoesNotMatch": AccessDenied,
    "TokenRefreshRequired": AccessDenied,
    "IllegalLocationConstraintException": SettingsError,
    "InvalidBucketName": SettingsError,
    "PermanentRedirect": SettingsError,
    "BadDigest": DestinationUnavailable,  # damaged on its way
    "IncompleteBody": DestinationUnavailable,
    "OperationAborted": DestinationUnavailable,
    "RequestTimeout": DestinationUnavailable,
    "XAmzContentChecksumMismatch": DestinationUnavailable,
}
"""What S3 calls its errors. A code that isn't here is judged by its HTTP status."""

STATUSES: Mapping[int, type[PipelineError] | type[S3Answer]] = {
    301: SettingsError,
    307: SettingsError,
    401: AccessDenied,
    403: AccessDenied,
    404: ObjectMissing,
    408: DestinationUnavailable,
    409: ConditionalConflict,
    412: AlreadyThere,
    429: Throttled,
    501: Unsupported,
}

_REMEDIES: Mapping[type[PipelineError], str] = {
    DestinationUnavailable: "It is tried again; if it stays so, see whether PIPELINE_S3__ENDPOINT_URL is "
    "right, or the destination's `endpoint_url`, and its server is up.",
    Throttled: "It is tried again, more slowly; if it stays so, lower PIPELINE_WORKER__CONCURRENCY.",
    AccessDenied: "Check PIPELINE_S3__ACCESS_KEY_ID and PIPELINE_S3__SECRET_ACCESS_KEY, or the AWS credential "
    "chain; the identity needs s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload and "
    "s3:ListBucket, for `gc` s3:ListBucketMultipartUploads, for `tags` s3:PutObjectTagging, and for a key of KMS "
    "kms:GenerateDataKey and kms:Decrypt.",
    BucketMissing: "Create the bucket, or correct PIPELINE_DESTINATION or the job config's `destinations`.",
    SettingsError: "Correct PIPELINE_S3__* and PIPELINE_DESTINATION, or the job config's `destinations`.",
}


@contextmanager
def translated(*, doing: str, url: str) -> Iterator[None]:
    """
    Turn what the libraries raise inside the block into a PipelineError or an S3Answer.

    `doing` is a verb phrase that `url` completes: "write", "complete the upload of".
    """
    try:
        yield
    except (boto.ClientError, *ERRORS) as error:
        raise translation(error, doing=doing, url=url) from error


@contextmanager
def answers_unexpected() -> Iterator[None]:
    """Turn an S3Answer that nobody inside the block handles into a PipelineError: none crosses the port."""
    try:
        yield
    except Unsupported as answer:
        raise SettingsError(
            f"{answer}. The store must support S3's multipart uploads and checksums, and what the destination's "
            "options ask for: storage class, encryption, tags."
        ) from answer
    except S3Answer as answer:
        raise DestinationUnavailable(
            f"{answer}. Someone else changed it, or the store contradicts itself; it is tried again."
        ) from answer


def translation(error: Exception, *, doing: str, url: str) -> PipelineError | S3Answer:
    """The error to raise instead of `error`."""
    if isinstance(error, boto.ClientError) and not isinstance(error, boto.EventStreamError):
        kind, cause = _refusal(error)
    else:
        kind = next(ERRORS[ancestor] for ancestor in type(error).__mro__ if ancestor in ERRORS)
        cause = str(error) or f"no answer in time ({type(error).__name__})"
    if issubclass(kind, InternalError):
        return InternalError(error)
    message = f"Can't {doing} {url}: {_without_userinfo(cause)}"
    if issubclass(kind, S3Answer):
        return kind(message)
    return kind(f"{message.rstrip('.')}. {_REMEDIES[kind]}")


def _refusal(error: boto.ClientError) -> tuple[type[PipelineError] | type[S3Answer], str]:
    answer = error.response.get("Error", {})
    code, words = str(answer.get("Code", "")), str(answer.get("Message", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    by_status = STATUSES.get(status, DestinationUnavailable if status >= 500 else InternalError)
    kind = CODES.get(code) or (AccessDenied if code.startswith("KMS.") else by_status)
    return kind, f"{code} ({status}): {words}" if words else f"{code} ({status})"


def _without_userinfo(text: str) -> str:
    # An endpoint or proxy URL may hold a password.
    return re.sub(r"//[^/@\s\"']+@", "//***@", text)
