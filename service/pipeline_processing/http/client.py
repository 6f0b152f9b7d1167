"""Asks an HTTP API: with its access, not too fast, and again where another try may help."""

import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Self

import aiohttp
import structlog
from multidict import CIMultiDict
from pydantic import SecretStr
from yarl import URL

from pipeline_processing.aio.asking import Backoff, ask
from pipeline_processing.aio.clock import Clock
from pipeline_processing.errors import PipelineError, SettingsError, SourceDataInvalid
from pipeline_processing.http.answer import PIECE_BYTES, HttpAnswer
from pipeline_processing.http.errors import LongWait, is_final, refusal, translated
from pipeline_processing.http.options import UpstreamOptions
from pipeline_processing.http.pace import Pace, Paces
from pipeline_processing.http.urls import Origin, check_url, joined, origin_of, shown, with_query

LONGEST_WAIT_SECONDS = 60.0
"""A longer Retry-After is left to the next attempt of the run, so that this one doesn't hold its place."""
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_MOST_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "gzip, deflate", "User-Agent": "pipeline-processing"}

Shower = Callable[[str], str]
"""The URL asked, or where a redirect led → as messages show it."""

log = structlog.get_logger(__name__)


class HttpUpstream:
    """
    One API, as a block that holds its connections. See `ports.Upstream`.

    `secret` finds a secret by its name; `jitter` gives numbers in 0…1; `paces` are shared by all upstreams of this
    process.
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
        self._kept: dict[Origin, Pace] = {}
        self._access: dict[str, str] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Raises SecretMissing, or SettingsError for a secret that can't be sent."""
        self._access = _access(self._options, self._secret)
        seconds = self._options.timeout.total_seconds()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # whoever asks limits how much at once
            cookie_jar=aiohttp.DummyCookieJar(),  # an agency's session is nobody else's
            timeout=aiohttp.ClientTimeout(total=None, connect=seconds, sock_connect=seconds, sock_read=seconds),
            trust_env=False,
            auto_decompress=True,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None, "the block was entered"
        await self._session.close()

    @asynccontextmanager
    async def get(
        self, url: str, *, query: Mapping[str, str] | None = None, shown_as: str | None = None
    ) -> AsyncIterator[HttpAnswer]:
        """See `ports.Upstream`. Leaving the block early breaks the answer off."""
        try:
            asked = check_url(with_query(url, query or {}))
        except ValueError as error:
            raise SourceDataInvalid(f"{shown(shown_as or url)} can't be asked: {error}. Correct it.") from None
        answer = await self._answer(asked, _shower(asked, shown_as))
        try:
            yield answer
        finally:
            answer.close()

    async def _answer(self, url: str, show: Shower) -> HttpAnswer:
        """Ask until there is an answer, as often as the options allow."""
        return await ask(
            lambda: self._ask(url, show),
            clock=self._clock,
            backoff=Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS, jitter=self._jitter),
            tries=self._options.max_retries + 1,
            retry=lambda error: not is_final(error),
            on_failure=lambda error, _: log.debug("an upstream is asked again", url=show(url), cause=str(error)),
        )

    async def _ask(self, url: str, show: Shower) -> HttpAnswer:
        """Ask once, and go where redirects lead."""
        home, at = origin_of(url), url
        for _ in range(_MOST_REDIRECTS + 1):
            is_home = origin_of(at) == home
            response = await self._send(at, show(at), is_home=is_home)
            if response.status < 300:
                return await _begun(response, at, show(at))
            response.close()
            if response.status not in _REDIRECTS or "Location" not in response.headers:
                raise self._refusal(response, at, show(at), asked=show(url), is_home=is_home)
            at = redirected(at, response.headers["Location"], shown_as=show(at))
        raise SourceDataInvalid(f"{show(url)} redirects more than {_MOST_REDIRECTS} times. Correct the URL.")

    async def _send(self, url: str, shown_as: str, *, is_home: bool) -> aiohttp.ClientResponse:
        assert self._session is not None, "requests are sent inside the block"
        origin = origin_of(url)
        if origin not in self._kept:
            self._kept[origin] = self._paces.of(self._options, origin)
        await self._kept[origin].wait()
        headers = CIMultiDict(_HEADERS)
        if is_home:
            # No other host gets what the job config says to this one, least of all the secret.
            headers.update(self._options.headers)
            headers.update(self._access)
        with translated(shown_as):
            # `encoded`: no other spelling of what was encoded here, and nothing decoded.
            return await self._session.get(URL(url, encoded=True), headers=headers, allow_redirects=False)

    def _refusal(
        self, response: aiohttp.ClientResponse, url: str, shown_as: str, *, asked: str, is_home: bool
    ) -> PipelineError:
        wait = None
        if response.status in (429, 503):
            wait = retry_after(response.headers.get("Retry-After"), now=_time_there(response) or self._clock.now())
        if wait is not None:
            if wait > LONGEST_WAIT_SECONDS:
                return LongWait(shown_as, seconds=wait, limit=LONGEST_WAIT_SECONDS)
            self._kept[origin_of(url)].pause(wait)
        secret = self._options.auth.secret if is_home and self._options.auth is not None else None
        return refusal(response.status, shown_as, secret=secret, asked=asked, retry_after=wait)


async def _begun(response: aiohttp.ClientResponse, url: str, shown_as: str) -> HttpAnswer:
    """The answer, once the first piece of its body is there: until then the request can be repeated."""
    try:
        with translated(shown_as):
            first = await response.content.read(PIECE_BYTES)
    except BaseException:
        response.close()
        raise
    return HttpAnswer(response, url=url, shown_as=shown_as, first=first)


def _shower(url: str, shown_as: str | None) -> Shower:
    said = shown(shown_as or url)

    def show(at: str) -> str:
        if at == url:
            return said
        # Its path may be a secret, as links to files often are, or repeat the values, as even its host may.
        scheme, host, port = origin_of(at)
        return f"a redirect from {said}" + (f" to {scheme}://{host}:{port}" if shown_as is None else "")

    return show


def redirected(url: str, location: str, *, shown_as: str) -> str:
    """Where a redirect from `url` leads. Raises SourceDataInvalid if nobody should go there."""
    try:
        to = joined(url, location)
    except ValueError as error:
        raise SourceDataInvalid(f"{shown_as} redirects to what can't be asked: {error}. Correct the URL.") from None
    if origin_of(url)[0] == "https" and origin_of(to)[0] == "http":
        raise SourceDataInvalid(f"{shown_as} redirects from https to http, where others can listen. Correct the URL.")
    return to


def _time_there(response: aiohttp.ClientResponse) -> datetime | None:
    """The API's time of day by its Date header: what its dates are meant by, however wrong the clock here is."""
    return _moment(response.headers.get("Date"))


def retry_after(header: str | None, *, now: datetime) -> float | None:
    """Seconds to wait, by a Retry-After in seconds or as a date (RFC 9110, 10.2.3); None if it says neither."""
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
    """The header with the secret, if there is one."""
    if options.auth is None:
        return {}
    value = secret(options.auth.secret).get_secret_value()
    if not value.isprintable() or value != value.strip():
        raise SettingsError(
            f"The secret {options.auth.secret!r} can't be sent in a header: it has line ends, control characters, or "
            "spaces around it. Set it without."
        )
    if options.auth.basic is not None:
        value = "Basic " + b64encode(f"{options.auth.basic.username}:{value}".encode()).decode()
    elif options.auth.bearer is not None:
        value = f"Bearer {value}"
    return {options.auth.header_name: value}
