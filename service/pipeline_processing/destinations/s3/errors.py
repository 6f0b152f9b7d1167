"""
Translate the errors of botocore, aiobotocore and aiohttp. None of their exceptions leaves this package.

    DestinationUnavailable, Throttled, AccessDenied, BucketMissing, SettingsError, InternalError

Errors that a caller may handle. If it doesn't, they are treated like their base class:

    DestinationUnavailable
    └── UnexpectedAnswer
        ├── ObjectMissing         404
        ├── UploadGone
        ├── AlreadyThere          412
        └── ConditionalConflict   409
    SettingsError
    └── Unsupported               501
    AccessDenied
    └── CredentialsExpired        tried again
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any, TypeVar

import aiohttp
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from pipeline_processing.certificates import has_expired, remedy_for_server, verification_of
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


class UnexpectedAnswer(DestinationUnavailable):
    """The object or upload was changed from outside, or the store contradicts itself."""


class ObjectMissing(UnexpectedAnswer):
    """The object doesn't exist. HEAD gives the same answer for a missing bucket."""


class UploadGone(UnexpectedAnswer):
    """The multipart upload was completed or aborted, or its parts aren't the plan's."""


class AlreadyThere(UnexpectedAnswer):
    """If-None-Match found an object with this key, or If-Match another one than it names."""


class ConditionalConflict(UnexpectedAnswer):
    """Another conditional write of this key is under way."""


class Unsupported(SettingsError):
    """The store doesn't implement something in the request, such as If-None-Match."""


class CredentialsExpired(AccessDenied):
    """
    The store says that the credentials have expired. Retried, because those of a role or the AWS chain are renewed, and
    a clock may be wrong for a moment.
    """

    retryable = True


T = TypeVar("T")
Kind = type[PipelineError]

ERRORS: Mapping[type[Exception], Kind] = {
    # The network, a server that closed the connection, or the server that provides credentials.
    aiohttp.ClientError: DestinationUnavailable,
    OSError: DestinationUnavailable,  # TimeoutError is one
    ResponseParserError: DestinationUnavailable,
    boto.HTTPClientError: DestinationUnavailable,
    boto.ConnectionError: DestinationUnavailable,
    boto.IncompleteReadError: DestinationUnavailable,
    boto.ChecksumError: DestinationUnavailable,
    boto.FlexibleChecksumError: DestinationUnavailable,
    boto.AwsChunkedWrapperError: DestinationUnavailable,
    boto.CapacityNotAvailableError: DestinationUnavailable,
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
    # Requests that are bugs of this service.
    boto.ParamValidationError: InternalError,
    boto.ValidationError: InternalError,
    boto.UnseekableStreamError: InternalError,
    boto.UndefinedModelAttributeError: InternalError,
    # Settings that botocore refuses: ours, or those of the AWS chain. A test lists all subclasses mapped by this.
    boto.BotoCoreError: SettingsError,
}

CODES: Sequence[tuple[str, Kind]] = (
    (r"SlowDown.*|.*Throttl.*|TooManyRequests.*|(Request|Bandwidth)LimitExceeded", Throttled),
    (r".*QuotaExceeded", DestinationUnavailable),  # like a full disk
    (r"ExpiredToken.*|TokenRefreshRequired", CredentialsExpired),
    (
        r"InvalidToken|InvalidIdentityToken|IDPRejectedClaim|RequestExpired|KMS\.(?!Internal|Dependency|KeyUnavailable).*",
        AccessDenied,
    ),
    (r"NoSuchBucket", BucketMissing),
    (r"NoSuchUpload|InvalidPart", UploadGone),
    # Interrupted, or corrupted in transit.
    (r"BadDigest|IncompleteBody|OperationAborted|RequestTimeout|XAmzContent\w+Mismatch", DestinationUnavailable),
)
"""Patterns of S3 and STS error codes that are more specific than their HTTP status."""

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
"""Any other 4xx is a permanent refusal. Anything else but a success (5xx, a temporary redirect) may pass."""

_TOO_LARGE = 413
_LONGEST_MESSAGE = 500
_ENDPOINT = "PIPELINE_S3__ENDPOINT_URL or the destination's `endpoint_url`"
_LOOK_AT_ENDPOINT = f"This is retried; if it persists, check that {_ENDPOINT} is right, and that its server is up."
_STORE_MUST_SUPPORT = (
    "The store must support S3's multipart uploads, checksums and `If-None-Match`, and the features that the "
    "destination's options use: storage class, encryption, tags."
)
_REMEDIES: Mapping[Kind, str] = {
    UnexpectedAnswer: "It was changed from outside, or the store contradicts itself. This is retried.",
    Unsupported: _STORE_MUST_SUPPORT,
    DestinationUnavailable: _LOOK_AT_ENDPOINT,
    Throttled: "This is retried more slowly; if it persists, lower PIPELINE_WORKER__CONCURRENCY.",
    AccessDenied: "Check PIPELINE_S3__ACCESS_KEY_ID and PIPELINE_S3__SECRET_ACCESS_KEY, or the AWS credential "
    "chain; the identity needs s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload and "
    "s3:ListBucket, for `gc` s3:ListBucketMultipartUploads, for `tags` s3:PutObjectTagging, and for a key of KMS "
    "kms:GenerateDataKey and kms:Decrypt.",
    CredentialsExpired: "This is retried, since a role's credentials and those of the AWS chain are renewed; if it "
    "persists, renew PIPELINE_S3__SESSION_TOKEN with its key and secret, and restart the service.",
    BucketMissing: "Create the bucket, or correct PIPELINE_DESTINATION or the job config's `destinations`.",
    SettingsError: "Correct PIPELINE_S3__* and PIPELINE_DESTINATION, or the job config's `destinations`.",
}
_REMEDY_OF_QUOTA = "Raise the quota, or free some space. This is retried."
_REMEDY_OF_TOO_LARGE = (
    "A proxy or gateway in front of the store limits the size of requests: raise its limit (nginx: "
    "client_max_body_size) above the size of a part, which starts at 8 MiB and grows with the artifact."
)


@contextmanager
def translated(*, doing: str, url: str, missing: Kind = ObjectMissing, remedy: str | None = None) -> Iterator[None]:
    """
    Translate the libraries' errors in the block to PipelineErrors.

    `doing` is a verb phrase that `url` completes: "write", "complete the upload of". `missing` is the error for a 404
    that doesn't say what is missing. `remedy` is used for refusals by a server other than the store.
    """
    try:
        yield
    except (boto.ClientError, *ERRORS) as error:
        raise translation(error, doing=doing, url=url, missing=missing, remedy=remedy) from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if not _raised_by_botocore(error):
            raise
        raise DestinationUnavailable(
            f"Can't {doing} {url}: the answer can't be read ({error}). {_LOOK_AT_ENDPOINT}"
        ) from error


def translation(
    error: Exception, *, doing: str, url: str, missing: Kind = ObjectMissing, remedy: str | None = None
) -> PipelineError:
    """Return the error to raise instead of `error`. See `translated`."""
    if isinstance(error, boto.ClientError):
        kind, cause, own_remedy = _refusal(error)
        if remedy is not None and issubclass(kind, UnexpectedAnswer | Unsupported):
            kind = SettingsError  # the refusal isn't the store's
        kind = missing if kind is ObjectMissing else kind
        remedy = remedy or own_remedy
    elif (untrusted := verification_of(error)) is not None:
        # A certificate that has expired may be renewed any minute.
        kind = DestinationUnavailable if has_expired(untrusted) else SettingsError
        cause, remedy = str(untrusted), remedy_for_server(untrusted, authorities="AWS_CA_BUNDLE", names=_ENDPOINT)
    else:
        kind = _first(type(error), ERRORS)
        # Below the first line, botocore quotes an answer that isn't XML. That of STS holds credentials.
        cause = str(error).partition("\n")[0] or f"no answer in time ({type(error).__name__})"
        remedy = None
    if issubclass(kind, InternalError):
        return InternalError(error)
    # An endpoint's or proxy's URL may hold a password.
    cause = re.sub(r"//[^/@\s\"']+@", "//***@", cause).rstrip(".")
    made = kind(f"Can't {doing} {url}: {cause}. {remedy or _first(kind, _REMEDIES)}")
    if isinstance(made, TransientError) and isinstance(error, boto.ClientError):
        made.retry_after = _retry_after(error)
    return made


def _first(kind: type[Exception], places: Mapping[Any, T]) -> T:
    """Return the value for the class, or for its nearest base class."""
    return next(places[ancestor] for ancestor in kind.__mro__ if ancestor in places)


def check_answer(answer: Mapping[str, Any], *, needs: str | None, doing: str, url: str) -> None:
    """
    Raise DestinationUnavailable for a web page, and for an answer without the field `needs`, which S3 includes in every
    answer of this kind.

    A captive portal, or a gateway whose store is down, answers every request with 200 and a web page. If that were
    taken for the store's answer, a manifest could count as published that was never written.
    """
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    # Some stores send an empty answer as text/html.
    if str(headers.get("content-type", "")).startswith("text/html") and headers.get("content-length") != "0":
        cause = "the answer is a web page"
    elif needs is not None and not answer.get(needs):
        cause = f"the answer has no {needs}"
    else:
        return
    raise DestinationUnavailable(
        f"Can't {doing} {url}: {cause}, so it isn't from an S3 store. Is there a proxy, a gateway or a captive portal "
        f"in between? {_LOOK_AT_ENDPOINT}"
    )


def _refusal(error: boto.ClientError) -> tuple[Kind, str, str | None]:
    """Interpret an answer of the store, or of a proxy: kind, cause, and a remedy where the kind's doesn't fit."""
    answer = error.response.get("Error", {})
    code, status = str(answer.get("Code") or ""), _metadata(error).get("HTTPStatusCode", 0)
    message = " ".join(str(answer.get("Message") or "").split())[:_LONGEST_MESSAGE]
    name = f"HTTP {status}" if code in ("", str(status)) else f"{code} ({status})"
    is_refused = 400 <= status < 500
    kind = next((kind for pattern, kind in CODES if re.fullmatch(pattern, code)), None) or STATUSES.get(status)
    kind = kind or (SettingsError if is_refused else DestinationUnavailable)
    remedy = None
    if status == _TOO_LARGE:
        remedy = _REMEDY_OF_TOO_LARGE
    elif code.endswith("QuotaExceeded"):
        remedy = _REMEDY_OF_QUOTA
    elif kind is SettingsError and is_refused:
        remedy = f"{_STORE_MUST_SUPPORT} {_REMEDIES[SettingsError]}"
    return kind, f"{name}: {message}" if message else name, remedy


def _metadata(error: boto.ClientError) -> Mapping[str, Any]:
    metadata: Mapping[str, Any] = error.response.get("ResponseMetadata", {})
    return metadata


def _retry_after(error: boto.ClientError) -> float | None:
    """Return the `Retry-After` in seconds. S3 itself never sends it, but gateways in front of a store may."""
    header = _metadata(error).get("HTTPHeaders", {}).get("retry-after", "")
    return float(header) if re.fullmatch(r"\d{1,9}", header, re.ASCII) else None


def _raised_by_botocore(error: BaseException) -> bool:
    """Whether botocore raised it: its parsers fail on invalid dates and on repeated elements."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    module = frames[-1].f_globals.get("__name__", "") if frames else ""
    return str(module).partition(".")[0] in ("botocore", "aiobotocore")
