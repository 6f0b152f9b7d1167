"""
Translation of what aiohttp raises, and of the statuses of answers. None of its exceptions leaves this package.

    UpstreamUnavailable   no connection, a connection that broke off, what isn't HTTP, a server error
    Throttled             429, or a Retry-After that is too long to wait for here
    AccessDenied          401, 403
    SourceDataInvalid     any other status from 300 on, and URLs that aren't any
"""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import aiohttp
from aiohttp import http_exceptions

from pipeline_processing.errors import (
    AccessDenied,
    InternalError,
    PipelineError,
    SourceDataInvalid,
    Throttled,
    UpstreamUnavailable,
)

ERRORS: Mapping[type[Exception], type[PipelineError]] = {
    # The network, or a server that broke off.
    aiohttp.ClientConnectionError: UpstreamUnavailable,
    aiohttp.ClientPayloadError: UpstreamUnavailable,
    # What isn't HTTP, or has a header that is too long: a status is never raised, but judged by `refusal`.
    aiohttp.ClientResponseError: UpstreamUnavailable,
    http_exceptions.HttpProcessingError: UpstreamUnavailable,
    ssl.SSLError: UpstreamUnavailable,
    OSError: UpstreamUnavailable,  # TimeoutError is one
    # A URL of the job config, or a link in an answer. Redirects are followed here, so aiohttp has none to judge.
    aiohttp.InvalidURL: SourceDataInvalid,
    aiohttp.NonHttpUrlClientError: SourceDataInvalid,
    aiohttp.RedirectClientError: SourceDataInvalid,
    aiohttp.TooManyRedirects: SourceDataInvalid,
    # What this service never asks for.
    aiohttp.ContentTypeError: InternalError,
    aiohttp.ClientHttpProxyError: InternalError,
    aiohttp.ClientProxyConnectionError: InternalError,
    aiohttp.ServerFingerprintMismatch: InternalError,
    aiohttp.WSServerHandshakeError: InternalError,
    aiohttp.ClientError: InternalError,  # one that a later aiohttp adds; a test asks for its place here
}


QUOTING = (
    aiohttp.ClientResponseError,
    aiohttp.ClientPayloadError,
    aiohttp.ServerDisconnectedError,
    http_exceptions.HttpProcessingError,
)


class LongWait(Throttled):
    """A Retry-After that nobody can wait for within one attempt of a run."""

    def __init__(self, url: str, *, seconds: float, limit: float) -> None:
        super().__init__(
            f"{url} asks to be left alone for {seconds:,.0f} s, more than the {limit:.0f} s that are waited for here. "
            "The run is tried again then; if it stays so, lower `requests_per_second`.",
            retry_after=seconds,
        )


@contextmanager
def translated(url: str) -> Iterator[None]:
    """
    Turn what aiohttp raises inside the block into a PipelineError. `url` is as messages show it.

    An error that quotes what came from the server isn't its cause: tracebacks would show headers, and secrets in them.
    """
    try:
        yield
    except QUOTING as error:
        raise translation(error, url) from None
    except tuple(ERRORS) as error:
        raise translation(error, url) from error


def translation(error: Exception, url: str) -> PipelineError:
    """The error to raise instead of `error`."""
    kind = next(ERRORS[ancestor] for ancestor in type(error).__mro__ if ancestor in ERRORS)
    if kind is InternalError:
        return InternalError(error)
    if kind is SourceDataInvalid:
        return SourceDataInvalid(f"{url} can't be asked: it isn't a URL of http or https. Correct it.")
    return UpstreamUnavailable(
        f"{url} gives no answer: {_cause(error)}. It is tried again; if it stays so, see whether the URL is right and "
        "its server is up."
    )


def is_final(error: PipelineError) -> bool:
    """Whether the same request now would fail alike."""
    # A certificate is mended by people.
    return not error.retryable or isinstance(error, LongWait) or isinstance(error.__cause__, ssl.CertificateError)


def refusal(
    status: int, url: str, *, secret: str | None, asked: str, retry_after: float | None = None
) -> PipelineError:
    """
    What a status from 300 on means, once nothing is tried again. `secret` is the name of the one that was sent.

    `asked` is the URL that was asked first, before redirects; both are as messages show them. `retry_after`: seconds
    for which it asks to be left alone.
    """
    said = f"{url} answers {status}"
    match status:
        case 401 | 403:
            return AccessDenied(f"{said}: it refuses this service's access. {_access_remedy(secret, url, asked)}")
        case 429:
            return Throttled(
                f"{said}: too many requests. It is tried again; if it stays so, lower `requests_per_second`.",
                retry_after=retry_after,
            )
        case _ if status >= 500 or status in (408, 425):
            return UpstreamUnavailable(
                f"{said}. It is tried again; if it stays so, ask those who run it.", retry_after=retry_after
            )
        case 404 | 410:
            return SourceDataInvalid(f"{said}: there is nothing. Correct the URL, or the request's agency and params.")
        case _:
            return SourceDataInvalid(f"{said}, which isn't an answer to read. Correct the URL and the query.")


def _access_remedy(secret: str | None, url: str, asked: str) -> str:
    if secret is None and url != asked:
        return f"{asked} redirects to it, and a secret isn't sent to another host: ask there from the start."
    if secret is None:
        return "Give it `auth` in the job config."
    return f"Check the secret {secret!r}, and what it may read there."


def _cause(error: Exception) -> str:
    words = str(error).rstrip(".")
    match error:
        case aiohttp.ConnectionTimeoutError():
            return "no connection in time"  # without words: they quote the whole URL
        case TimeoutError():
            return "none came in time"
        case aiohttp.ClientConnectorDNSError():
            return "its host has no address"
        case aiohttp.ClientConnectorCertificateError():
            return f"its certificate isn't valid ({error.certificate_error})"
        case aiohttp.ClientConnectorError():
            return f"no connection ({error.os_error})"
        case aiohttp.ClientPayloadError():
            return "the connection broke off in the middle, or its content is damaged"
        case aiohttp.ClientResponseError() | http_exceptions.HttpProcessingError():
            return "what came isn't HTTP, or has too long headers"  # without words: they quote what came
        case _:
            return f"the connection broke off ({words or type(error).__name__})"
