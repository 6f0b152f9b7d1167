"""POST requests to webhooks, against real servers, and against the ones in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.errors import UpstreamUnavailable
from pipeline_processing.http import posting
from pipeline_processing.http.posting import HttpPoster
from pipeline_processing.ports import Posted, Poster
from tests.certificates import LOCAL
from tests.memory.receivers import HANGS, MemoryReceivers
from tests.unit.stepped_clock import SteppedClock
from tests.upstream_api import LOOPBACK, Asked, Raw, Reply, UpstreamApi

SHOWN = "webhook 'billing'"
BODY = b'{"run_id": "r", "text": "\xc3\xa9"}'


@pytest_asyncio.fixture
async def api() -> AsyncIterator[UpstreamApi]:
    async with UpstreamApi() as opened:
        yield opened


@pytest_asyncio.fixture
async def poster() -> AsyncIterator[HttpPoster]:
    async with HttpPoster(clock=SystemClock()) as opened:
        yield opened


async def posted(poster: Poster, url: str, **headers: str) -> Posted:
    return await poster.post(url, BODY, headers=headers, shown_as=SHOWN)


async def refusal(poster: Poster, url: str) -> str:
    with pytest.raises(UpstreamUnavailable) as caught:
        await posted(poster, url)
    return str(caught.value)


async def test_body_and_headers_arrive_unchanged(api: UpstreamApi, poster: HttpPoster) -> None:
    """Under the URL as it was given, with its user and password as basic authorization."""
    api.on("/hooks", Reply(b"thanks", status=202))
    url = api.url("/hooks?token=a%2Fb%20c").replace("http://", "http://user:p%40ss@")

    answer = await posted(poster, url, **{"ce-id": "r:succeeded", "content-type": "application/json"})

    (asked,) = api.asked
    assert answer == Posted(202)
    assert (asked.method, asked.raw, asked.body) == ("POST", "/hooks?token=a%2Fb%20c", BODY)
    assert (asked.headers["ce-id"], asked.headers["Content-Type"]) == ("r:succeeded", "application/json")
    assert asked.headers["Authorization"] == "Basic dXNlcjpwQHNz"


@pytest.mark.parametrize("status", [200, 204, 301, 307, 400, 410, 429, 500])
async def test_any_answer_is_returned_and_no_redirect_followed(
    status: int, api: UpstreamApi, poster: HttpPoster
) -> None:
    """A redirect to the loopback interface reaches nothing there."""
    api.on("/hooks", Reply(status=status, headers={"Location": api.url("/internal")}))

    assert await posted(poster, api.url("/hooks")) == Posted(status)
    assert [asked.path for asked in api.asked] == ["/hooks"]


async def test_retry_after_is_in_seconds(api: UpstreamApi, poster: HttpPoster) -> None:
    """Also if it is a date, by the server's clock."""
    date, until = "Sun, 18 Jan 2026 10:00:00 GMT", "Sun, 18 Jan 2026 10:02:00 GMT"
    api.on("/seconds", Reply(status=429, headers={"Retry-After": "7"}))
    api.on("/date", Reply(status=503, headers={"Retry-After": until, "Date": date}))

    assert await posted(poster, api.url("/seconds")) == Posted(429, 7.0)
    assert await posted(poster, api.url("/date")) == Posted(503, 120.0)


async def test_an_endless_answer_is_not_read(api: UpstreamApi, poster: HttpPoster) -> None:
    """The status is enough."""
    api.on("/hooks", Reply(b"x" * 100, halfway=asyncio.Event()))

    assert await posted(poster, api.url("/hooks")) == Posted(200)


async def test_a_server_that_gives_no_answer_is_given_up(
    api: UpstreamApi, poster: HttpPoster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it hangs, reads slowly, breaks off or sends garbage. No message quotes the URL."""
    monkeypatch.setattr(posting, "_TIMEOUT_SECONDS", 0.2)
    never = asyncio.Event()
    api.on("/hangs", Reply(after=never))
    api.on("/garbage", Raw(b"220 mail.example ESMTP\r\n"))
    api.on("/breaks", Raw(b""))

    async with HttpPoster(clock=SystemClock()) as hasty, _reading_nothing() as port:
        slow = f"http://{LOOPBACK}:{port}/s3cret"
        with pytest.raises(UpstreamUnavailable, match="timed out"):
            await hasty.post(slow, b"x" * 20_000_000, headers={}, shown_as=SHOWN)
        said = [await refusal(hasty, api.url(path)) for path in ("/hangs", "/garbage", "/breaks")]
    never.set()
    assert all(text.startswith(f"{SHOWN} gives no answer: ") and "http://" not in text for text in said)
    assert "timed out" in said[0]


async def test_a_server_that_is_not_there_says_so(poster: HttpPoster) -> None:
    """Nor does this quote the URL."""
    async with _reading_nothing() as port:
        pass
    said = await refusal(poster, f"http://{LOOPBACK}:{port}/s3cret?token=s3cret")

    assert said.startswith(f"{SHOWN} gives no answer: no connection")
    assert "s3cret" not in said


async def test_a_certificate_that_nobody_trusts_is_an_error(poster: HttpPoster, tmp_path: Path) -> None:
    """The event isn't sent."""
    async with UpstreamApi(tls=LOCAL.server_side(tmp_path)) as api:
        assert "its certificate isn't valid" in await refusal(poster, api.url("/hooks"))
        assert api.asked == []


async def test_the_servers_in_memory_answer_as_real_ones(api: UpstreamApi, poster: HttpPoster) -> None:
    """Tests of webhooks rely on it."""

    def answer(asked: Asked) -> Reply:
        return Reply(status=429, headers={"Retry-After": "7"})

    api.on("/hooks", answer)
    memory = MemoryReceivers(clock=SteppedClock())
    memory.answers("billing", status=429, retry_after=7.0)

    real = await posted(poster, api.url("/hooks"), **{"ce-id": "r"})
    assert await posted(memory, "https://billing.example/hooks", **{"ce-id": "r"}) == real == Posted(429, 7.0)
    (received,) = memory.of("billing")
    assert (received.body, received.headers["ce-id"]) == (api.asked[0].body, api.asked[0].headers["ce-id"])
    memory.handlers["billing"] = lambda received: HANGS
    assert (await refusal(memory, "https://billing.example/hooks")).startswith(f"{SHOWN} gives no answer: timed out")


@asynccontextmanager
async def _reading_nothing() -> AsyncIterator[int]:
    """A server that accepts connections and reads nothing. Yields its port."""
    done = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await done.wait()
        writer.close()

    server = await asyncio.start_server(connected, LOOPBACK, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        done.set()
        server.close()
