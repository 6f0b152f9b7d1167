"""SeaweedFS behind TLS and temporary credentials, and the STS that gives them out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs

import aiohttp
from aiohttp import web
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from yarl import URL

from pipeline_processing.embedded.ports import LOOPBACK
from pipeline_processing.embedded.seaweedfs import SeaweedFSServer
from tests.certificates import Certificate

WEB_IDENTITY = "web-identity-t0ken"
_REPLACED = ("authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256", "host", "content-length")


@dataclass(slots=True)
class GuardedS3:
    """
    As a block. Checks each request's signature and session, and signs it anew for SeaweedFS.

    Without a session, it accepts SeaweedFS's own keys.
    """

    behind: SeaweedFSServer
    certificate: Certificate
    folder: Path
    session_seconds: Iterator[float] = field(default_factory=lambda: iter([]))
    """How long each session lasts; an hour if there are no more."""
    given: list[str] = field(default_factory=list)
    """For each session, the action of STS that asked for it."""
    signed_by: list[str] = field(default_factory=list)
    """The access key of each request to S3."""
    web_identity: str = WEB_IDENTITY
    """The token that STS accepts."""
    ended: set[str] = field(default_factory=set)
    """Access keys of sessions that are refused as expired."""
    url: str = ""
    _runner: web.AppRunner | None = None
    _http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(auto_decompress=False)
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, LOOPBACK, 0, ssl_context=self.certificate.server_side(self.folder))
        await site.start()
        self.url = f"https://{LOOPBACK}:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._http is not None
        assert self._runner is not None
        await self._http.close()
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.method == "POST" and request.path == "/" and not request.query_string:
            return self._session({name: values[0] for name, values in parse_qs(body.decode()).items()})
        access_key = request.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
        self.signed_by.append(access_key)
        if access_key in self.ended:
            return _refusal(400, "ExpiredToken")
        if not self._is_signed(request, access_key):
            return _refusal(403, "SignatureDoesNotMatch")
        return await self._forwarded(request, body)

    def _session(self, form: dict[str, str]) -> web.Response:
        action = form["Action"]
        if action == "AssumeRoleWithWebIdentity" and form["WebIdentityToken"] != self.web_identity:
            return _refusal(400, "InvalidIdentityToken", root="ErrorResponse")
        self.given.append(action)
        number = len(self.given)
        until = datetime.now(UTC) + timedelta(seconds=next(self.session_seconds, 3600.0))
        keys = f"<AccessKeyId>session-{number}</AccessKeyId><SecretAccessKey>s3cret-{number}</SecretAccessKey>"
        rest = f"<SessionToken>t0ken-{number}</SessionToken><Expiration>{until:%Y-%m-%dT%H:%M:%SZ}</Expiration>"
        credentials = f"<Credentials>{keys}{rest}</Credentials>"
        return _xml(f"<{action}Response><{action}Result>{credentials}</{action}Result></{action}Response>")

    def _is_signed(self, request: web.Request, access_key: str) -> bool:
        number = access_key.removeprefix("session-")
        if access_key == self.behind.access_key_id:
            keys = Credentials(access_key, self.behind.secret_access_key)
        elif access_key.startswith("session-") and request.headers.get("x-amz-security-token") == f"t0ken-{number}":
            keys = Credentials(access_key, f"s3cret-{number}")
        else:
            return False
        authorization = request.headers["Authorization"]
        names = authorization.partition("SignedHeaders=")[2].partition(",")[0].split(";")
        signed = AWSRequest(
            request.method, self.url + request.raw_path, headers={name: request.headers[name] for name in names}
        )
        signed.context["timestamp"] = request.headers["x-amz-date"]
        auth = S3SigV4Auth(keys, "s3", self.behind.region)
        signature = auth.signature(auth.string_to_sign(signed, auth.canonical_request(signed)), signed)
        return authorization.endswith(f"Signature={signature}")

    async def _forwarded(self, request: web.Request, body: bytes) -> web.StreamResponse:
        assert self._http is not None
        kept = {name: value for name, value in request.headers.items() if name.lower() not in _REPLACED}
        url = self.behind.endpoint_url + request.raw_path
        renewed = AWSRequest(request.method, url, headers=kept, data=body)
        keys = Credentials(self.behind.access_key_id, self.behind.secret_access_key)
        await asyncio.to_thread(S3SigV4Auth(keys, "s3", self.behind.region).add_auth, renewed)
        headers = dict(renewed.headers.items())
        async with self._http.request(
            request.method, URL(url, encoded=True), headers=headers, data=body or None
        ) as answer:
            passed = {name: value for name, value in answer.headers.items() if name.lower() != "transfer-encoding"}
            content = await answer.read()
            if request.method == "HEAD":
                response = web.StreamResponse(status=answer.status, headers=passed)
                response.content_length = int(answer.headers.get("Content-Length", 0))
                await response.prepare(request)
                return response
            return web.Response(status=answer.status, headers=passed, body=content)


def _refusal(status: int, code: str, *, root: str = "Error") -> web.Response:
    error = f"<Code>{code}</Code><Message>its words</Message>"
    text = f"<Error>{error}</Error>" if root == "Error" else f"<{root}><Error>{error}</Error></{root}>"
    return web.Response(status=status, text=text, content_type="application/xml")


def _xml(text: str) -> web.Response:
    return web.Response(text=text, content_type="text/xml")
