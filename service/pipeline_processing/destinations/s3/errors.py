"""
Translation of what botocore, aiobotocore and aiohttp raise. None of their exceptions leaves this package.

    PipelineError             DestinationUnavailable, Throttled, AccessDenied, BucketMissing, SettingsError,
                              InternalError
    └── CredentialsExpired    an AccessDenied that is tried again
    S3Answer                  an answer that the destination handles itself
    ├── ObjectMissing         404: no such object
    ├── UploadGone            no such multipart upload, or none with these parts
    ├── AlreadyThere          412: If-None-Match found an object
    ├── ConditionalConflict   409: another conditional write is under way
    └── Unsupported           501: the store doesn't know something in the request, such as If-None-Match
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

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
    TransientError,
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


class CredentialsExpired(AccessDenied):
    """
    The store says that the credentials have expired. It is tried again: those of a role or the AWS chain are renewed,
    and a clock may be wrong for a moment.
    """

    retryable = True


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

Kind = type[PipelineError] | type[S3Answer]

CODES: Sequence[tuple[str, Kind]] = (
    (r"SlowDown.*|.*Throttl.*|TooManyRequests.*|(Request|Bandwidth)LimitExceeded", Throttled),
    (r".*QuotaExceeded", DestinationUnavailable),  # as a disk that is full
    (r"ExpiredToken.*|TokenRefreshRequired", CredentialsExpired),
    (r"InvalidToken|RequestExpired|KMS\.(?!Internal|Dependency|KeyUnavailable).*", AccessDenied),
    (r"NoSuchBucket", BucketMissing),
    (r"NoSuchUpload|InvalidPart", UploadGone),
    # Broken off, or damaged on the way.
    (r"BadDigest|IncompleteBody|OperationAborted|RequestTimeout|XAmzContent\w+Mismatch", DestinationUnavailable),
)
"""Codes of S3 and STS, as patterns, whose HTTP status doesn't tell what they mean."""

STATUSES: Mapping[int, Kind] = {
    301: SettingsError,
    308: SettingsError,
    401: AccessDenied,
    403: AccessDenied,
    404: ObjectMissing,
    407: AccessDenied,
    408: DestinationUnavailable,
    409: ConditionalConflict,
    412: AlreadyThere,
    425: DestinationUnavailable,
    429: Throttled,
    501: Unsupported,
}
"""Any other 4xx is a definite refusal. Whatever else isn't a success (5xx, a redirect for now) may pass."""

_TOO_LARGE = 413
_MOST_WORDS = 500
"""Characters of a store's message that are quoted."""

_REMEDIES: Mapping[type[PipelineError], str] = {
    DestinationUnavailable: "It is tried again; if it stays so, see whether PIPELINE_S3__ENDPOINT_URL is "
    "right, or the destination's `endpoint_url`, and its server is up.",
    Throttled: "It is tried again, more slowly; if it stays so, lower PIPELINE_WORKER__CONCURRENCY.",
    AccessDenied: "Check PIPELINE_S3__ACCESS_KEY_ID and PIPELINE_S3__SECRET_ACCESS_KEY, or the AWS credential "
    "chain; the identity needs s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload and "
    "s3:ListBucket, for `gc` s3:ListBucketMultipartUploads, for `tags` s3:PutObjectTagging, and for a key of KMS "
    "kms:GenerateDataKey and kms:Decrypt.",
    CredentialsExpired: "It is tried again, since a role's credentials and those of the AWS chain are renewed; if it "
    "stays so, renew PIPELINE_S3__SESSION_TOKEN with its key and secret, and restart the service.",
    BucketMissing: "Create the bucket, or correct PIPELINE_DESTINATION or the job config's `destinations`.",
    SettingsError: "Correct PIPELINE_S3__* and PIPELINE_DESTINATION, or the job config's `destinations`.",
}
_REMEDY_OF_QUOTA = "Raise the quota, or make room; it is tried again."
_REMEDY_OF_TOO_LARGE = (
    "A proxy or gateway before the store limits the size of requests: raise its limit (nginx: client_max_body_size) "
    "above the size of a part, which begins at 8 MiB and grows with the artifact."
)
STORE_MUST_SUPPORT = (
    "The store must support S3's multipart uploads, checksums and `If-None-Match`, and what the destination's options "
    "ask for: storage class, encryption, tags."
)


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
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if not _raised_by_botocore(error):
            raise
        raise DestinationUnavailable(
            f"Can't {doing} {url}: the answer can't be read ({error}). {_REMEDIES[DestinationUnavailable]}"
        ) from error


@contextmanager
def answers_unexpected() -> Iterator[None]:
    """Turn an S3Answer that nobody inside the block handles into a PipelineError: none crosses the port."""
    try:
        yield
    except Unsupported as answer:
        raise SettingsError(f"{answer}. {STORE_MUST_SUPPORT}") from answer
    except S3Answer as answer:
        raise DestinationUnavailable(
            f"{answer}. Someone else changed it, or the store contradicts itself; it is tried again."
        ) from answer


def translation(error: Exception, *, doing: str, url: str) -> PipelineError | S3Answer:
    """The error to raise instead of `error`."""
    if isinstance(error, boto.ClientError) and not isinstance(error, boto.EventStreamError):
        refusal = Refusal.of(error)
        kind, cause, remedy = refusal.kind, refusal.words, refusal.remedy
    else:
        kind = next(ERRORS[ancestor] for ancestor in type(error).__mro__ if ancestor in ERRORS)
        cause, remedy = str(error) or f"no answer in time ({type(error).__name__})", None
    if issubclass(kind, InternalError):
        return InternalError(error)
    message = f"Can't {doing} {url}: {_without_userinfo(cause)}"
    if issubclass(kind, S3Answer):
        return kind(message)
    told = kind(f"{message.rstrip('.')}. {remedy or _REMEDIES[kind]}")
    if isinstance(told, TransientError) and isinstance(error, boto.ClientError):
        told.retry_after = _retry_after(error)
    return told


def bucket_missing(answer: ObjectMissing) -> BucketMissing:
    """What it means that there is no such bucket."""
    return BucketMissing(f"{answer}. {_REMEDIES[BucketMissing]}")


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a store, or something that answers in its place, says to a request that it refuses."""

    code: str
    """S3's; without one, the status."""
    status: int
    message: str

    @classmethod
    def of(cls, error: boto.ClientError) -> "Refusal":
        answer = error.response.get("Error", {})
        return cls(
            code=str(answer.get("Code") or ""),
            status=int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)),
            message=" ".join(str(answer.get("Message") or "").split())[:_MOST_WORDS],
        )

    @property
    def words(self) -> str:
        """`NoSuchBucket (404): The specified bucket does not exist`, or `HTTP 413: Request Entity Too Large`."""
        who = f"HTTP {self.status}" if self.code in ("", str(self.status)) else f"{self.code} ({self.status})"
        return f"{who}: {self.message}" if self.message else who

    @property
    def kind(self) -> Kind:
        """By the code where that says more than the status, else by the status."""
        for pattern, kind in CODES:
            if re.fullmatch(pattern, self.code):
                return kind
        return STATUSES.get(self.status) or (SettingsError if 400 <= self.status < 500 else DestinationUnavailable)

    @property
    def remedy(self) -> str | None:
        """None where it is that of the kind."""
        if self.status == _TOO_LARGE:
            return _REMEDY_OF_TOO_LARGE
        if self.code.endswith("QuotaExceeded"):
            return _REMEDY_OF_QUOTA
        if self.kind is SettingsError and 400 <= self.status < 500:
            return f"{STORE_MUST_SUPPORT} {_REMEDIES[SettingsError]}"
        return None


def _raised_by_botocore(error: BaseException) -> bool:
    """Its parsers trip over dates that aren't any, and elements that are there twice."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return str(module).partition(".")[0] in ("botocore", "aiobotocore")


def _retry_after(error: boto.ClientError) -> float | None:
    """Seconds for which the store asks to be left alone. S3 itself never says; gateways before it may."""
    header = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after", "")
    return float(header) if re.fullmatch(r"\d{1,9}", header, re.ASCII) else None


def _without_userinfo(text: str) -> str:
    # An endpoint or proxy URL may hold a password.
    return re.sub(r"//[^/@\s\"']+@", "//***@", text)
