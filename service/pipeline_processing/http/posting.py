"""POST requests to other services, without redirects."""

from collections.abc import Mapping
from typing import Self

import aiohttp
from yarl import URL

from pipeline_processing.aio.clock import Clock
from pipeline_processing.http.client import retry_after, time_there
from pipeline_processing.http.errors import translated
from pipeline_processing.ports import Posted

_TIMEOUT_SECONDS = 10.0


class HttpPoster:
    """`Poster` over HTTP. Connections are open for the length of a block."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # callers limit their concurrency
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS),
            headers={"User-Agent": "pipeline-processing"},
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def post(self, url: str, body: bytes, *, headers: Mapping[str, str], shown_as: str) -> Posted:
        with translated(shown_as):
            # `encoded=True`: send the URL unchanged. aiohttp sends its user and password as basic authorization.
            response = await self._session.post(
                URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
            )
        response.close()  # without reading the body, which may never end
        now = time_there(response) or self._clock.now()
        return Posted(response.status, retry_after(response.headers.get("Retry-After"), now=now))
