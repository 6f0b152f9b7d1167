"""The client for HTTP APIs, with authentication, rate limits and retries."""

import asyncio
import re
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Self

import aiohttp
from multidict import CIMultiDict
from pydantic import SecretStr
from yarl import URL

from pipeline_processing.aio.asking import Backoff, ask
from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import PipelineError, SettingsError, SourceDataInvalid, UpstreamUnavailable
from pipeline_processing.http.errors import LongWait, is_final, refusal, translated
from pipeline_processing.http.options import UpstreamOptions
from pipeline_processing.http.pace import Pace, Paces
from pipeline_processing.http.urls import Origin, check_url, joined, origin_of, shown, with_query
from pipeline_processing.log import get_logger
from pipeline_processing.usage import current_usage

LONGEST_WAIT_SECONDS = 60.0
"""For a longer Retry-After, the attempt fails and the next one is delayed, so that no worker is blocked."""
PIECE_BYTES = 64 * 1024
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_MOST_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "gzip, deflate", "User-Agent": "pipeline-processing"}

ShowUrl = Callable[[str], str]
"""Maps a requested URL, or the target of a redirect, to how messages show it."""

log = get_logger(__name__)


class HttpAnswer:
    """See `ports.Answer`. `first` is the first piece of the body; `shown_as` is the URL as messages show it."""

    def __init__(self, response: aiohttp.ClientResponse, *, url: str, shown_as: str, first: bytes) -> None:
        self.url = url
        self._shown_as = shown_as
        # Repeated headers are joined with commas, which is equivalent (RFC 9110, 5.3).
        self.headers = CIMultiDict({name: ", ".join(response.headers.getall(name)) for name in response.headers})
        self._response = response
        self._first = first

    async def read(self, size: int = -1) -> bytes:
        if size < 0:
            pieces = []
            while piece := await self.read(PIECE_BYTES):
                pieces.append(piece)
            return b"".join(pieces)
        if self._first:
            piece, self._first = self._first[:size], self._first[size:]
            return piece
        with translated(self._shown_as):
            piece = await self._response.content.read(size)
        current_usage().bytes_read += len(piece)
        return piece

    def close(self) -> None:
        """Return the connection to the pool if the whole body was read; else close it."""
        self._response.close()


class HttpUpstream:
    """
    One API, whose connections are open for the length of a block. See `ports.Upstream`.

    `secret` returns a secret by name; `jitter` draws from 0…1; `paces` is shared by all upstreams of this process.
    """

    def __init__(
        self,
        *,
        options: UpstreamOptions,
        secret: Callable[[str], SecretStr],
        paces: Paces,
        clock: Clock,
        jitter: Callable[[], float],
    ) -> None:
        self._options = options
        self._secret = secret
        self._paces = paces
        self._clock = clock
        self._jitter = jitter
        self._paces_in_use: dict[Origin, Pace] = {}
        self._access: dict[str, str] = {}
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        """Raises SecretMissing, or SettingsError for a secret that can't be sent."""
        self._access = _access(self._options, self._secret)
        seconds = self._options.timeout.total_seconds()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # callers limit their concurrency
            cookie_jar=aiohttp.DummyCookieJar(),  # agencies must not share a session
            timeout=aiohttp.ClientTimeout(total=None, connect=seconds, sock_connect=seconds, sock_read=seconds),
            trust_env=False,
            auto_decompress=True,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    @asynccontextmanager
    async def get(
        self, url: str, *, query: Mapping[str, str] | None = None, shown_as: str | None = None
    ) -> AsyncIterator[HttpAnswer]:
        """See `ports.Upstream`. Leaving the block early aborts the answer."""
        try:
            asked = check_url(with_query(url, query or {}))
        except ValueError as error:
            raise SourceDataInvalid(f"{shown(shown_as or url)} can't be requested: {error}. Correct it.") from None
        answer = await self._answer(asked, _url_shower(asked, shown_as))
        try:
            yield answer
        finally:
            answer.close()

    async def _answer(self, url: str, show: ShowUrl) -> HttpAnswer:
        """Send the request until there is an answer, as often as the options allow."""
        return await ask(
            lambda: self._ask(url, show),
            clock=self._clock,
            backoff=Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS, jitter=self._jitter),
            tries=self._options.max_retries + 1,
            retry=lambda error: not is_final(error),
            on_failure=lambda error, _: log.debug("retrying a request", url=show(url), cause=str(error)),
        )

    async def _ask(self, url: str, show: ShowUrl) -> HttpAnswer:
        """Send the request once, and follow redirects."""
        home, at = origin_of(url), url
        for _ in range(_MOST_REDIRECTS + 1):
            is_home = origin_of(at) == home
            response = await self._send(at, show(at), is_home=is_home)
            if response.status < 300:
                return await _started_answer(response, at, show(at))
            response.close()
            if response.status not in _REDIRECTS or "Location" not in response.headers:
                raise self._refusal(response, at, show(at), asked=show(url), is_home=is_home)
            at = redirected(at, response.headers["Location"], shown_as=show(at))
        raise SourceDataInvalid(f"{show(url)} redirects more than {_MOST_REDIRECTS} times. Correct the URL.")

    async def _send(self, url: str, shown_as: str, *, is_home: bool) -> aiohttp.ClientResponse:
        origin = origin_of(url)
        if origin not in self._paces_in_use:
            self._paces_in_use[origin] = self._paces.of(self._options, origin)
        await self._paces_in_use[origin].wait()
        headers = CIMultiDict(_HEADERS)
        if is_home:
            # The job config's headers, and above all the secret, are for this host only.
            headers.update(self._options.headers)
            headers.update(self._access)
        with translated(shown_as):
            # `encoded=True`: send the URL unchanged, neither decoded nor encoded again.
            return await self._session.get(URL(url, encoded=True), headers=headers, allow_redirects=False)

    def _refusal(
        self, response: aiohttp.ClientResponse, url: str, shown_as: str, *, asked: str, is_home: bool
    ) -> PipelineError:
        wait = None
        if response.status in (429, 503):
            wait = retry_after(response.headers.get("Retry-After"), now=time_there(response) or self._clock.now())
        if wait is not None:
            if wait > LONGEST_WAIT_SECONDS:
                return LongWait(shown_as, seconds=wait, limit=LONGEST_WAIT_SECONDS)
            self._paces_in_use[origin_of(url)].pause(wait)
        secret = self._options.auth.secret if is_home and self._options.auth is not None else None
        return refusal(response.status, shown_as, secret=secret, asked=asked, retry_after=wait)


async def _started_answer(response: aiohttp.ClientResponse, url: str, shown_as: str) -> HttpAnswer:
    """Wait for the first piece of the body, and return the answer. Until then the request can be retried."""
    try:
        with translated(shown_as):
            first = await response.content.read(PIECE_BYTES)
    except BaseException:
        response.close()
        raise
    current_usage().bytes_read += len(first)
    return HttpAnswer(response, url=url, shown_as=shown_as, first=first)


def _url_shower(url: str, shown_as: str | None) -> ShowUrl:
    said = shown(shown_as or url)

    def show(at: str) -> str:
        if at == url:
            return said
        # The path may be a secret, as in many links to files, and path and host may contain values of rows.
        scheme, host, port = origin_of(at)
        return f"a redirect from {said}" + (f" to {scheme}://{host}:{port}" if shown_as is None else "")

    return show


def redirected(url: str, location: str, *, shown_as: str) -> str:
    """Return the target of a redirect from `url`. Raises SourceDataInvalid if it isn't safe to follow."""
    try:
        to = joined(url, location)
    except ValueError as error:
        raise SourceDataInvalid(f"{shown_as} redirects to an invalid URL: {error}. Correct the URL.") from None
    if origin_of(url)[0] == "https" and origin_of(to)[0] == "http":
        raise SourceDataInvalid(f"{shown_as} redirects from https to http, which isn't encrypted. Correct the URL.")
    return to


def time_there(response: aiohttp.ClientResponse) -> datetime | None:
    """Return the API's time from its Date header. The API's dates refer to its clock, which may differ from ours."""
    return _moment(response.headers.get("Date"))


def retry_after(header: str | None, *, now: datetime) -> float | None:
    """Return the seconds to wait, from a Retry-After in seconds or as a date (RFC 9110, 10.2.3); None if invalid."""
    if header is None:
        return None
    if re.fullmatch(r"\d{1,9}", header.strip(), re.ASCII):
        return float(header)
    until = _moment(header)
    return None if until is None else max(0.0, (until - now).total_seconds())


def _moment(date: str | None) -> datetime | None:
    if date is None:
        return None
    try:
        moment = parsedate_to_datetime(date)
        return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _access(options: UpstreamOptions, secret: Callable[[str], SecretStr]) -> dict[str, str]:
    """Return the header that contains the secret, if the options name one. Raises SettingsError."""
    if options.auth is None:
        return {}
    value = secret(options.auth.secret).get_secret_value()
    if not value.isprintable() or value != value.strip():
        raise SettingsError(
            f"The secret {options.auth.secret!r} can't be sent in a header: it has line breaks, control characters, or "
            "surrounding spaces. Remove them."
        )
    if options.auth.basic is not None:
        value = "Basic " + b64encode(f"{options.auth.basic.username}:{value}".encode()).decode()
    elif options.auth.bearer is not None:
        value = f"Bearer {value}"
    return {options.auth.header_name: value}


async def check_reachable(url: str, *, seconds: float) -> str:
    """
    Connect to the server of a URL, verifying its certificate for https, and send nothing. Returns the address.

    `url` may be a template, as its scheme and host contain no placeholders. Raises UpstreamUnavailable.
    """
    scheme, host, port = origin_of(url.partition("{")[0])
    secure = scheme == "https"
    address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port, ssl=ssl.create_default_context() if secure else None)
    except OSError as error:  # includes TimeoutError and ssl.SSLError
        raise UpstreamUnavailable(
            f"{address} can't be reached: {str(error) or f'no answer within {seconds:g} s'}. Check the URL, and that "
            "its server is up."
        ) from error
    writer.close()
    return address
