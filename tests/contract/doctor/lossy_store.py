"""
A proxy in front of a real S3 store that takes something away.

    async with lossy_store(server, Loss(strip=("if-none-match",))) as url: ...

Requests are signed again, as a signature covers the headers that are taken away.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import ClientSession, DummyCookieJar, web
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from yarl import URL

from pipeline_processing.embedded.seaweedfs import SeaweedFSServer

_OWN = {"host", "authorization", "connection", "content-length", "x-amz-date", "accept-encoding", "transfer-encoding"}
_HOP = {"connection", "transfer-encoding", "content-length", "content-encoding", "keep-alive"}

Answers = Callable[[web.Request], web.Response | None]


def _nothing(request: web.Request) -> None:
    return None


@dataclass(frozen=True)
class Loss:
    """Headers to remove, on the way there and back, and requests to answer instead of the store."""

    strip: tuple[str, ...] = ()
    """Beginnings of their names."""
    answers: Answers = _nothing

    def kept(self, headers: Mapping[str, str], drop: set[str]) -> dict[str, str]:
        return {
            name: value
            for name, value in headers.items()
            if name.lower() not in drop and not name.lower().startswith(self.strip or ("\0",))
        }


def refusal(status: int, code: str) -> web.Response:
    """An error as S3 words it."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>Not here.</Message></Error>'
    return web.Response(status=status, text=body, content_type="application/xml")


def refusing(method: str, query: str | None, status: int = 403, code: str = "AccessDenied") -> Answers:
    """Refuse the requests of a method, with this key in the query; None: without any query."""

    def answers(request: web.Request) -> web.Response | None:
        hit = not request.query if query is None else query in request.query
        return refusal(status, code) if request.method == method and hit else None

    return answers


@asynccontextmanager
async def lossy_store(server: SeaweedFSServer, loss: Loss) -> AsyncIterator[str]:
    """Run the proxy for the length of the block, and return its URL."""
    signer = S3SigV4Auth(Credentials(server.access_key_id, server.secret_access_key), "s3", server.region)

    async def forward(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if (instead := loss.answers(request)) is not None:
            return instead
        url = f"{server.endpoint_url}{request.rel_url.raw_path_qs}"
        headers = loss.kept(request.headers, _OWN) | {"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}
        signed = AWSRequest(method=request.method, url=url, headers=headers)
        signed.context["payload_signing_enabled"] = False
        signer.add_auth(signed)
        async with http.request(
            request.method, URL(url, encoded=True), data=body, headers=dict(signed.headers)
        ) as answer:
            content = await answer.read()
            back = loss.kept(answer.headers, _HOP)
            if request.method == "HEAD":
                back["Content-Length"] = answer.headers.get("Content-Length", "0")
            return web.Response(status=answer.status, body=content, headers=back)

    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(application, access_log=None)
    async with ClientSession(cookie_jar=DummyCookieJar(), auto_decompress=False) as http:
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


def rules(prefix: str, days: int) -> Answers:
    """Tell of a lifecycle rule."""
    body = (
        '<?xml version="1.0"?><LifecycleConfiguration><Rule><ID>a</ID><Status>Enabled</Status>'
        f"<Filter><Prefix>{prefix}</Prefix></Filter><AbortIncompleteMultipartUpload><DaysAfterInitiation>{days}"
        "</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule></LifecycleConfiguration>"
    )
    return lambda request: (
        web.Response(text=body, content_type="application/xml") if "lifecycle" in request.query else None
    )


def without_uploads(request: web.Request) -> web.Response | None:
    """Tell of no incomplete upload."""
    if request.method != "GET" or "uploads" not in request.query:
        return None
    bucket = re.sub(r"/.*", "", request.path.lstrip("/"))
    body = f"<ListMultipartUploadsResult><Bucket>{bucket}</Bucket><IsTruncated>false</IsTruncated>"
    return web.Response(text=f"{body}</ListMultipartUploadsResult>", content_type="application/xml")
