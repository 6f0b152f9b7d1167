"""Every error of aiohttp, and every status, has a place among ours."""

import inspect
import ssl
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp import client_exceptions, http_exceptions

from pipeline_processing.errors import (
    AccessDenied,
    InternalError,
    PipelineError,
    SourceDataInvalid,
    Throttled,
    UpstreamUnavailable,
)
from pipeline_processing.http.errors import ERRORS, QUOTING, LongWait, is_final, refusal, translated, translation
from tests.certificates import expired

URL = "http://a.example/x"
KEY: Any = Mock(ssl=None, host="a.example", port=80)

DOCUMENTED = {
    kind
    for module in (aiohttp, client_exceptions)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, aiohttp.ClientError)
}
# Uploads, which this service has none of. Not in every version of aiohttp that will do, so it has no place by itself.
UPLOADS = {kind for kind in DOCUMENTED if kind.__name__ == "UploadAbortedError"}


@pytest.mark.parametrize("kind", sorted(DOCUMENTED - UPLOADS - {aiohttp.ClientError}, key=lambda kind: kind.__name__))
def test_every_error_has_a_place(kind: type[Exception]) -> None:
    """A new one of a later aiohttp fails here until somebody has decided; ClientError catches it meanwhile."""
    assert next(ancestor for ancestor in kind.__mro__ if ancestor in ERRORS) is not aiohttp.ClientError


CERTIFICATE = ssl.SSLCertVerificationError("self-signed certificate")


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(111, "refused")), UpstreamUnavailable, "refused"),
        (aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "Name not known")), UpstreamUnavailable, "no address"),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "no TLS")), UpstreamUnavailable, "no TLS"),
        (aiohttp.ClientConnectorCertificateError(KEY, CERTIFICATE), UpstreamUnavailable, "self-signed"),
        (aiohttp.ServerDisconnectedError(), UpstreamUnavailable, "broke off"),
        (aiohttp.ClientOSError(104, "reset"), UpstreamUnavailable, "reset"),
        (aiohttp.ServerTimeoutError("Timeout on reading"), UpstreamUnavailable, "timed out"),
        (
            aiohttp.ConnectionTimeoutError("Connection timeout to host https://a.example/?key=row 1"),
            UpstreamUnavailable,
            "timed out",
        ),
        (aiohttp.ClientPayloadError("not enough data"), UpstreamUnavailable, "in the middle"),
        (aiohttp.ClientResponseError(KEY, (), status=400, message="row 1"), UpstreamUnavailable, "isn't HTTP"),
        (http_exceptions.ContentEncodingError("gzip"), UpstreamUnavailable, "isn't HTTP"),
        (aiohttp.InvalidURL("x"), SourceDataInvalid, "isn't an http"),
        (aiohttp.NonHttpUrlClientError("x"), SourceDataInvalid, "isn't an http"),
        (aiohttp.TooManyRedirects(KEY, ()), SourceDataInvalid, "isn't an http"),
        (TimeoutError(), UpstreamUnavailable, "timed out"),
        (ConnectionResetError(104, "reset"), UpstreamUnavailable, "reset"),
        (ssl.SSLError(1, "bad record"), UpstreamUnavailable, "bad record"),
        (aiohttp.ContentTypeError(KEY, ()), InternalError, "a bug"),
        (aiohttp.ClientError("new"), InternalError, "a bug"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_translation(error: Exception, kind: type[PipelineError], said: str) -> None:
    """Each error becomes one of ours, and says where and why; the library's is its cause if it quotes nobody."""
    with pytest.raises(kind, match=said) as raised, translated(URL):
        raise error

    assert raised.value.__cause__ is (None if isinstance(error, QUOTING) else error)
    assert kind is InternalError or URL in str(raised.value)


def test_what_came_is_not_repeated() -> None:
    """An answer that isn't HTTP may be anything, rows too."""
    error = aiohttp.ClientResponseError(KEY, (), status=400, message="Bad status line 'row 1'")

    assert "row" not in str(translation(error, URL))


def test_a_certificate_is_not_tried_again() -> None:
    """It is mended by people; everything else of the network may be better the next moment."""
    certificate = aiohttp.ClientConnectorCertificateError(KEY, CERTIFICATE)
    with pytest.raises(UpstreamUnavailable) as raised, translated(URL):
        raise certificate

    assert is_final(raised.value)
    assert not is_final(UpstreamUnavailable("x"))
    assert is_final(AccessDenied("x"))
    assert is_final(LongWait(URL, seconds=61, limit=60))


@pytest.mark.parametrize(
    ("certificate", "said"), [(CERTIFICATE, "Set SSL_CERT_FILE"), (expired(), "Renew the server's certificate")]
)
def test_a_certificate_has_a_remedy_of_its_own(certificate: ssl.SSLCertVerificationError, said: str) -> None:
    """Not the one for servers that are down."""
    error = aiohttp.ClientConnectorCertificateError(KEY, certificate)
    error.__cause__ = certificate  # as aiohttp raises it

    assert said in str(translation(error, URL))


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (401, AccessDenied, "the secret 'crm_token'"),
        (403, AccessDenied, "the secret 'crm_token'"),
        (400, SourceDataInvalid, "400"),
        (404, SourceDataInvalid, "not found"),
        (304, SourceDataInvalid, "304"),
        (422, SourceDataInvalid, "422"),
        (408, UpstreamUnavailable, "retried"),
        (425, UpstreamUnavailable, "retried"),
        (429, Throttled, "requests_per_second"),
        (500, UpstreamUnavailable, "retried"),
        (502, UpstreamUnavailable, "retried"),
        (503, UpstreamUnavailable, "retried"),
        (504, UpstreamUnavailable, "retried"),
        (599, UpstreamUnavailable, "retried"),
    ],
)
def test_statuses(status: int, kind: type[PipelineError], said: str) -> None:
    """What may pass is transient, what won't is access or data; each message says what to do."""
    error = refusal(status, URL, secret="crm_token", asked=URL)

    assert type(error) is kind
    assert said in str(error)


def test_access_without_a_secret() -> None:
    """Whether none was given, or a redirect led to where it isn't sent, are mended in different ways."""
    assert "Give it `auth`" in str(refusal(401, URL, secret=None, asked=URL))
    assert "http://a.example redirects to it" in str(refusal(401, URL, secret=None, asked="http://a.example"))
