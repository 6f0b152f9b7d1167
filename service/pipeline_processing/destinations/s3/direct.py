"""
The most frequent requests, sent without botocore's work around each call.

For every call anew, botocore resolves the endpoint, checks the arguments against its model, describes itself and parses
the answer. That takes several times the processor time of signing and sending. A run of a hundred rows would spend most
of its time on it.

So only the first request to a bucket is botocore's. It shows how requests to that bucket are addressed and signed, and
the next ones are made like it. Whatever isn't a plain success is left to botocore, which makes the call again: it knows
about retries, redirects and errors. All of these calls may be repeated.
"""

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from aiobotocore.httpsession import AIOHTTPSession
from botocore import exceptions as boto
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.config import Config
from opentelemetry import trace

from pipeline_processing.destinations.s3.objects import Body, Data
from pipeline_processing.usage import current_usage

_METHODS = {"put_object": "PUT", "upload_part": "PUT", "head_object": "HEAD"}
_HEADERS = {
    "ContentType": "content-type",
    "IfNoneMatch": "if-none-match",
    "IfMatch": "if-match",
    "StorageClass": "x-amz-storage-class",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "Tagging": "x-amz-tagging",
    "ChecksumCRC32": "x-amz-checksum-crc32",
    "ChecksumSHA256": "x-amz-checksum-sha256",
    "ChecksumMode": "x-amz-checksum-mode",
}
_ANSWERED = {
    "ETag": "etag",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "ChecksumCRC32": "x-amz-checksum-crc32",
    "ChecksumSHA256": "x-amz-checksum-sha256",
}
_METADATA = "x-amz-meta-"
_SCOPE = re.compile(r"AWS4-HMAC-SHA256 Credential=[^,]+/\d{8}/([^/,]+)/s3/aws4_request,")
_SENT_WHOLE = 1024 * 1024
_REFUSALS = (301, 307, 308, 400, 401, 403)
"""Answers that may be due to the way the request was made."""
_MOST_REFUSALS = 3

Credentials = Callable[[], Awaitable[Any]]
"""Returns botocore's frozen credentials, renewed if necessary."""


@dataclass(frozen=True, slots=True)
class _Route:
    """How requests to one bucket are addressed and signed. `url` ends with a slash."""

    url: str
    region: str
    user_agent: str
    config: Config


class DirectRequests:
    """
    Sends requests that botocore has shown how to make. Without a connection pool of its own: it uses botocore's.

    After three refusals in a row, a bucket is left to botocore.
    """

    def __init__(self, *, http: AIOHTTPSession, credentials: Credentials) -> None:
        self._http = http
        self._credentials = credentials
        self._routes: dict[str, _Route] = {}
        self._refusals: Counter[str] = Counter()

    def learn(self, request: AWSPreparedRequest, **_: object) -> None:
        """Take over how a request was addressed and signed. A handler of botocore's event `before-send`."""
        about = request.context.get("s3_redirect", {})
        bucket, key = about.get("bucket"), about.get("params", {}).get("Key")
        if not bucket or not key or bucket in self._routes or self._refusals[bucket] >= _MOST_REFUSALS:
            return
        url, ending = request.url.partition("?")[0], _quoted(key)
        scope = _SCOPE.match(_text(request.headers.get("Authorization")))
        if scope is None or not url.endswith(f"/{ending}"):
            return
        url = url.removesuffix(ending)
        self._routes[bucket] = _Route(
            url=url,
            region=scope[1],
            user_agent=_text(request.headers.get("User-Agent")),
            config=request.context["client_config"],
        )

    async def send(
        self, operation: str, bucket: str, key: str, *, body: Data | None, arguments: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """
        Make a call with botocore's arguments, and return its answer as botocore would, with the fields needed here.

        None means that botocore must make the call. Raises botocore's ClientError if HEAD finds no object, or
        If-None-Match finds one, or If-Match another one.
        """
        route = self._routes.get(bucket)
        if route is None or operation not in _METHODS:
            return None
        headers = _headers(arguments)
        if headers is None:
            return None
        if body is not None:
            headers["content-length"] = str(len(body))
        query = ""
        if operation == "upload_part":
            query = f"partNumber={arguments['PartNumber']}&uploadId={quote(arguments['UploadId'], safe='-_.~')}"
        try:
            url = f"{route.url}{_quoted(key)}{'?' if query else ''}{query}"
            signed = await self._signed(route, _METHODS[operation], url, headers)
            request = AWSPreparedRequest(
                _METHODS[operation],
                url,
                {**signed, "user-agent": route.user_agent},
                body if body is None or (isinstance(body, bytes) and len(body) < _SENT_WHOLE) else Body(body),
                stream_output=False,
            )
            current_usage().count_s3_request(is_part=operation == "upload_part")
            answer = await self._http.send(request)
        except boto.BotoCoreError as error:
            trace.get_current_span().add_event("retry", {"error.type": type(error).__name__})
            return None
        status, received = answer.status_code, answer.raw.headers
        if status == HTTPStatus.PRECONDITION_FAILED or (operation == "head_object" and status == HTTPStatus.NOT_FOUND):
            raise boto.ClientError(_refusal(received, HTTPStatus(status)), operation)
        if status == HTTPStatus.OK:
            self._refusals.pop(bucket, None)
            return _answer(received)
        if status in _REFUSALS:
            self._refusals[bucket] += 1
            self._routes.pop(bucket, None)  # to be learned again, as after a redirect to another region
        trace.get_current_span().add_event("retry", {"http.response.status_code": status})
        return None

    async def _signed(self, route: _Route, method: str, url: str, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers with those of the signature."""
        request = AWSRequest(method, url, headers=headers)
        request.context["client_config"] = route.config  # says that the payload isn't signed
        S3SigV4Auth(await self._credentials(), "s3", route.region).add_auth(request)
        return dict(request.headers.items())


def _headers(arguments: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the headers for botocore's arguments; None if one of them needs botocore."""
    headers = {}
    for name, value in _flattened(arguments):
        # Signed is the value without white space around it, and with one space for several.
        if name is None or not value.isascii() or not value.isprintable() or value != " ".join(value.split()):
            return None
        headers[name] = value
    return headers


def _flattened(arguments: Mapping[str, Any]) -> Iterator[tuple[str | None, str]]:
    for name, value in arguments.items():
        if name == "Metadata":
            yield from ((f"{_METADATA}{each}".lower(), text) for each, text in value.items())
        elif name not in ("PartNumber", "UploadId"):
            yield _HEADERS.get(name), str(value)


def _answer(headers: Mapping[str, str]) -> dict[str, Any]:
    answer: dict[str, Any] = {field: headers[name] for field, name in _ANSWERED.items() if name in headers}
    return {
        **answer,
        "ContentLength": int(headers.get("content-length", 0)),
        "Metadata": {
            name.lower().removeprefix(_METADATA): value
            for name, value in headers.items()
            if name.lower().startswith(_METADATA)
        },
        "ResponseMetadata": {"HTTPHeaders": headers, "HTTPStatusCode": HTTPStatus.OK},
    }


def _refusal(headers: Mapping[str, str], status: HTTPStatus) -> dict[str, Any]:
    """Return what botocore makes of an answer without a body, and so without a code of the store's own."""
    metadata = {"HTTPHeaders": headers, "HTTPStatusCode": int(status)}
    return {"Error": {"Code": str(int(status)), "Message": status.phrase}, "ResponseMetadata": metadata}


def _quoted(key: str) -> str:
    return quote(key, safe="/-_.~")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")
