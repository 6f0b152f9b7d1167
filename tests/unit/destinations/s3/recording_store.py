"""A server on loopback that speaks a little S3 and STS, and remembers what it was asked: for what SeaweedFS lacks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs

from aiohttp import web
from pydantic import SecretStr

from pipeline_processing.destinations.s3.client import S3Client
from pipeline_processing.destinations.s3.session import AssumedRole


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request. Names of headers are in lower case."""

    operation: str
    key: str
    headers: Mapping[str, str]
    body: bytes
    method: str = ""
    target: str = ""
    """Path and query, as they were sent."""

    @property
    def form(self) -> dict[str, str]:
        """The body of a request to STS."""
        return {name: values[0] for name, values in parse_qs(self.body.decode()).items()}

    @property
    def access_key(self) -> str:
        """Who signed it."""
        return self.headers["authorization"].partition("Credential=")[2].partition("/")[0]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a test has the store answer, whatever it was asked."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def error(cls, status: int, code: str) -> Answer:
        """One of S3's own errors."""
        return cls(status, f"<Error><Code>{code}</Code><Message>its words</Message></Error>", _XML)

    @classmethod
    def page(cls, status: int = 200, body: str = "<html><title>Sign in</title><br></html>") -> Answer:
        """A web page, as captive portals and proxies send it."""
        return cls(status, body, {"Content-Type": "text/html; charset=utf-8"})


_XML = {"Content-Type": "application/xml"}


@dataclass(slots=True)
class RecordingStore:
    """As a block. Keeps whole objects; of an upload it keeps no more than its requests."""

    requests: list[Recorded] = field(default_factory=list)
    objects: dict[str, tuple[bytes, dict[str, str]]] = field(default_factory=dict)
    """Key → bytes, and the headers it was PUT with."""
    session_seconds: Iterator[float] = field(default_factory=lambda: iter([]))
    """How long each session that STS gives lasts; an hour if there are no more."""
    refusal: tuple[int, str] | None = None
    """Status and code with which STS refuses."""
    answers: dict[str, Answer] = field(default_factory=dict)
    """Operation, or `*` for all → its answer instead of the usual one."""
    refuses_whole_crc32: tuple[int, str] | None = None
    """Status and code with which it refuses to keep a CRC32 of a whole object."""
    knows_whole_crc32: bool = False
    """Otherwise it ignores the wish."""
    url: str = ""
    _runner: web.AppRunner | None = None
    _sessions: int = 0

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def client(self, *, role: AssumedRole | None = None, session_token: str | None = None) -> S3Client:
        """A client of it."""
        return S3Client(
            endpoint_url=self.url,
            region="us-east-1",
            access_key_id="the-user",
            secret_access_key=SecretStr("a-secret-key"),
            session_token=SecretStr(session_token) if session_token else None,
            addressing_style="path",
            role=role,
        )

    def asked(self, operation: str) -> list[Recorded]:
        """The requests of one kind, in order."""
        return [request for request in self.requests if request.operation == operation]

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        key = request.path.lstrip("/").partition("/")[2]
        operation = _operation(request)
        self.requests.append(Recorded(operation, key, headers, body, request.method, request.raw_path))
        if (told := self.answers.get(operation) or self.answers.get("*")) is not None:
            return web.Response(status=told.status, text=told.body, headers=dict(told.headers))
        match operation:
            case "AssumeRole":
                return self._session()
            case "HeadBucket":
                return web.Response()
            case "CreateMultipartUpload":
                return self._new_upload(headers)
            case "UploadPart":
                return web.Response(headers={"ETag": '"etag"'})
            case "PutObject" | "CompleteMultipartUpload" if key in self.objects and "if-none-match" in headers:
                return _error(412, "PreconditionFailed")
            case "PutObject":
                self.objects[key] = (body, headers)
                return web.Response(headers={"ETag": '"etag"'})
            case "CompleteMultipartUpload":
                return _xml("<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>")
            case "HeadObject" | "GetObject" if key in self.objects:
                return self._object(key)
            case _:
                return _error(404, "NoSuchKey")

    def _new_upload(self, headers: Mapping[str, str]) -> web.Response:
        kind = headers.get("x-amz-checksum-type")
        if kind and self.refuses_whole_crc32:
            return _error(*self.refuses_whole_crc32)
        answer = _xml("<InitiateMultipartUploadResult><UploadId>u-1</UploadId></InitiateMultipartUploadResult>")
        if kind and self.knows_whole_crc32:
            answer.headers["x-amz-checksum-type"] = kind
        return answer

    def _object(self, key: str) -> web.Response:
        body, stored = self.objects[key]
        told = ("x-amz-meta-", "x-amz-checksum-", "x-amz-server-side-encryption")
        headers = {name: value for name, value in stored.items() if name.startswith(told)}
        # Under KMS an ETag has the form of an MD5, and isn't the MD5 of the bytes.
        kms = stored.get("x-amz-server-side-encryption") == "aws:kms"
        etag = hashlib.md5(b"another key" + body if kms else body).hexdigest()
        return web.Response(body=body, headers={**headers, "ETag": f'"{etag}"'})

    def _session(self) -> web.Response:
        if self.refusal is not None:
            status, code = self.refusal
            error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>not you</Message></Error>"
            return _xml(f"<ErrorResponse>{error}</ErrorResponse>", status=status)
        self._sessions += 1
        end = datetime.now(UTC) + timedelta(seconds=next(self.session_seconds, 3600.0))
        return _xml(
            "<AssumeRoleResponse><AssumeRoleResult>"
            "<AssumedRoleUser><AssumedRoleId>id</AssumedRoleId>"
            "<Arn>arn:aws:sts::123456789012:assumed-role/exporter/session</Arn></AssumedRoleUser>"
            f"<Credentials><AccessKeyId>session-{self._sessions}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
            f"<SessionToken>token-{self._sessions}</SessionToken><Expiration>{end.isoformat()}</Expiration></Credentials>"
            "</AssumeRoleResult></AssumeRoleResponse>"
        )


def _operation(request: web.Request) -> str:
    query = request.query
    match request.method:
        case "POST" if request.path == "/":
            return "AssumeRole"
        case "POST":
            return "CreateMultipartUpload" if "uploads" in query else "CompleteMultipartUpload"
        case "PUT":
            return "UploadPart" if "partNumber" in query else "PutObject"
        case "HEAD":
            return "HeadObject" if "/" in request.path.strip("/") else "HeadBucket"
        case "DELETE":
            return "AbortMultipartUpload" if "uploadId" in query else "DeleteObject"
        case _:
            return "ListMultipartUploads" if "uploads" in query else "GetObject"


def _xml(document: str, *, status: int = 200) -> web.Response:
    return web.Response(text=f'<?xml version="1.0"?>{document}', content_type="application/xml", status=status)


def _error(status: int, code: str) -> web.Response:
    return _xml(f"<Error><Code>{code}</Code><Message>words</Message></Error>", status=status)
