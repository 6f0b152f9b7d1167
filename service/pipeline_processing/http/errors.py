"""
Translate aiohttp's errors, and the statuses of answers. None of its exceptions leaves this package.

    UpstreamUnavailable   no connection, a lost connection, an answer that isn't HTTP, a server error
    Throttled             429, or a Retry-After that is too long to wait within an attempt
    AccessDenied          401, 403
    SourceDataInvalid     any other status from 300 on, and invalid URLs
"""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import aiohttp
from aiohttp import http_exceptions

from pipeline_processing.certificates import remedy_for_server, verification_of
from pipeline_processing.errors import (
    AccessDenied,
    InternalError,
    PipelineError,
    SourceDataInvalid,
    Throttled,
    UpstreamUnavailable,
)

ERRORS: Mapping[type[Exception], type[PipelineError]] = {
    # The network, or a server that closed the connection.
    aiohttp.ClientConnectionError: UpstreamUnavailable,
    aiohttp.ClientPayloadError: UpstreamUnavailable,
    # An answer that isn't HTTP, or has too long a header. Statuses are never raised, but handled by `refusal`.
    aiohttp.ClientResponseError: UpstreamUnavailable,
    http_exceptions.HttpProcessingError: UpstreamUnavailable,
    ssl.SSLError: UpstreamUnavailable,
    OSError: UpstreamUnavailable,  # TimeoutError is one
    # A URL in the job config, or a link in an answer. aiohttp never follows redirects, as this package does that.
    aiohttp.InvalidURL: SourceDataInvalid,
    aiohttp.NonHttpUrlClientError: SourceDataInvalid,
    aiohttp.RedirectClientError: SourceDataInvalid,
    aiohttp.TooManyRedirects: SourceDataInvalid,
    # Features that this service doesn't use.
    aiohttp.ContentTypeError: InternalError,
    aiohttp.ClientHttpProxyError: InternalError,
    aiohttp.ClientProxyConnectionError: InternalError,
    aiohttp.ServerFingerprintMismatch: InternalError,
    aiohttp.WSServerHandshakeError: InternalError,
    aiohttp.ClientError: InternalError,  # errors added by a later aiohttp, for which a test demands an entry here
}


QUOTING = (
    aiohttp.ClientResponseError,
    aiohttp.ClientPayloadError,
    aiohttp.ServerDisconnectedError,
    http_exceptions.HttpProcessingError,
)


class LongWait(Throttled):
    """A Retry-After that is too long to wait within an attempt."""

    def __init__(self, url: str, *, seconds: float, limit: float) -> None:
        super().__init__(
            f"{url} demands a pause of {seconds:,.0f} s, more than the {limit:.0f} s that an attempt waits. "
            "The run is retried after that; if it persists, lower `requests_per_second`.",
            retry_after=seconds,
        )


@contextmanager
def translated(url: str) -> Iterator[None]:
    """
    Translate aiohttp's errors in the block to PipelineErrors. `url` is as messages show it.

    An error that quotes the server's answer isn't chained as the cause, as tracebacks would show secrets in headers.
    """
    try:
        yield
    except QUOTING as error:
        raise translation(error, url) from None
    except tuple(ERRORS) as error:
        raise translation(error, url) from error


def translation(error: Exception, url: str) -> PipelineError:
    """Return the error to raise instead of `error`."""
    kind = next(ERRORS[ancestor] for ancestor in type(error).__mro__ if ancestor in ERRORS)
    if kind is InternalError:
        return InternalError(error)
    if kind is SourceDataInvalid:
        return SourceDataInvalid(f"{url} can't be requested: it isn't an http or https URL. Correct it.")
    if (untrusted := verification_of(error)) is None:
        remedy = "This is retried; if it persists, check that the URL is right and that its server is up."
    else:
        remedy = f"This is retried. {remedy_for_server(untrusted, authorities='SSL_CERT_FILE', names='the URL')}"
    return UpstreamUnavailable(f"{url} gives no answer: {_cause(error)}. {remedy}")


def is_final(error: PipelineError) -> bool:
    """Whether the same request would fail again for now."""
    # An invalid certificate must be replaced by a person.
    return not error.retryable or isinstance(error, LongWait) or isinstance(error.__cause__, ssl.CertificateError)


def refusal(
    status: int, url: str, *, secret: str | None, asked: str, retry_after: float | None = None
) -> PipelineError:
    """
    Return the error for a status from 300 on. `secret` is the name of the secret that was sent.

    `asked` is the URL before any redirects; both URLs are as messages show them. `retry_after` is the server's
    Retry-After in seconds.
    """
    said = f"{url} answers {status}"
    match status:
        case 401 | 403:
            return AccessDenied(f"{said}: it refuses this service's access. {_access_remedy(secret, url, asked)}")
        case 429:
            return Throttled(
                f"{said}: too many requests. This is retried; if it persists, lower `requests_per_second`.",
                retry_after=retry_after,
            )
        case _ if status >= 500 or status in (408, 425):
            return UpstreamUnavailable(
                f"{said}. This is retried; if it persists, contact the API's operator.", retry_after=retry_after
            )
        case 404 | 410:
            return SourceDataInvalid(f"{said}: not found. Correct the URL, or the request's agency and params.")
        case _:
            return SourceDataInvalid(f"{said}, which isn't a usable answer. Correct the URL and the query.")


def _access_remedy(secret: str | None, url: str, asked: str) -> str:
    if secret is None and url != asked:
        return f"{asked} redirects to it, and a secret isn't sent to another host: use the target's URL."
    if secret is None:
        return "Give it `auth` in the job config."
    return f"Check the secret {secret!r}, and what it may read there."


def _cause(error: Exception) -> str:
    words = str(error).rstrip(".")
    match error:
        case aiohttp.ConnectionTimeoutError():
            return "connecting timed out"  # without aiohttp's text, which quotes the whole URL
        case TimeoutError():
            return "timed out"
        case aiohttp.ClientConnectorDNSError():
            return "its host has no address"
        case aiohttp.ClientConnectorCertificateError():
            return f"its certificate isn't valid ({error.certificate_error})"
        case aiohttp.ClientConnectorError():
            return f"no connection ({error.os_error})"
        case aiohttp.ClientPayloadError():
            return "the connection broke off in the middle, or the content is damaged"
        case aiohttp.ClientResponseError() | http_exceptions.HttpProcessingError():
            return "it isn't HTTP, or its headers are too long"  # without aiohttp's text, which quotes the answer
        case _:
            return f"the connection broke off ({words or type(error).__name__})"
