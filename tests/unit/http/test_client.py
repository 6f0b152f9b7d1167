"""Asking an API: access, retries, pace and redirects, against a real server."""

# ruff: noqa: E501 - tables of samples

import asyncio
import gzip
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr
from structlog.testing import capture_logs

from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.errors import (
    AccessDenied,
    PipelineError,
    SecretMissing,
    SettingsError,
    SourceDataInvalid,
    Throttled,
    TransientError,
    UpstreamUnavailable,
)
from pipeline_processing.http.client import HttpUpstream, redirected, retry_after
from pipeline_processing.http.options import UpstreamOptions
from pipeline_processing.http.pace import Paces
from pipeline_processing.usage import Usage, use
from tests.certificates import LOCAL
from tests.unit.stepped_clock import START, SteppedClock
from tests.upstream_api import LOOPBACK, Raw, Reply, UpstreamApi, cut_off, first, share_of

SECRETS = {"crm_token": "s3cret"}


class Waiting(SteppedClock):
    """Remembers what was waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waited.append(seconds)
        await asyncio.sleep(0)
        await super().sleep(seconds)


@pytest_asyncio.fixture
async def api() -> AsyncIterator[UpstreamApi]:
    async with UpstreamApi() as opened:
        opened.on("/x", {"a": 1})
        yield opened


@pytest.fixture
def clock() -> Waiting:
    return Waiting()


def secret(name: str) -> SecretStr:
    if name not in SECRETS:
        raise SecretMissing(name, available=list(SECRETS))
    return SecretStr(SECRETS[name])


def upstream(clock: Any, *, paces: Paces | None = None, jitter: float = 0, **options: Any) -> HttpUpstream:
    return HttpUpstream(
        options=UpstreamOptions.model_validate(options),
        secret=secret,
        paces=paces or Paces(clock=clock),
        clock=clock,
        jitter=lambda: jitter,
    )


async def asked(client: HttpUpstream, url: str, **options: Any) -> bytes:
    async with client.get(url, **options) as answer:
        return await answer.read()


# -- answers -------------------------------------------------------------------------------------


async def test_bodies_are_billed(api: UpstreamApi, clock: Waiting):
    """Each byte once, however it is read."""
    use(usage := Usage())
    async with upstream(clock) as client:
        body = await asked(client, api.url("/x"))
        async with client.get(api.url("/x")) as answer:
            while await answer.read(3):
                pass
    assert usage.bytes_read == 2 * len(body)


async def test_an_answer_piece_by_piece(api: UpstreamApi, clock: Waiting):
    """Its body in pieces of any size, its headers in any case, several of one name with commas between."""
    api.on("/y", Reply(b"0123456789", headers={"Link": "<a>", "X-Y": "z"}))
    async with upstream(clock) as client, client.get(api.url("/y")) as answer:
        pieces = [await answer.read(3)]
        while piece := await answer.read(4):
            pieces.append(piece)

        assert b"".join(pieces) == b"0123456789"
        assert max(map(len, pieces)) <= 4
        assert await answer.read() == await answer.read(1) == b""
        assert (answer.headers["link"], answer.headers["x-y"], answer.url) == ("<a>", "z", api.url("/y"))


@pytest.mark.parametrize("body", [b"", b"x" * 1_000_000])
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_whole_body(body: bytes, chunked: bool, api: UpstreamApi, clock: Waiting):
    """Of any length, known before or not; an empty one isn't an error."""
    api.on("/y", Reply(body, chunked=chunked))
    async with upstream(clock) as client:
        assert await asked(client, api.url("/y")) == body


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_compressed_answers(encoding: str, compress: Callable[[bytes], bytes], api: UpstreamApi, clock: Waiting):
    """What this service says that it can read, it can."""
    api.on("/y", Reply(compress(b"abc" * 9), headers={"Content-Encoding": encoding}))
    async with upstream(clock) as client:
        assert await asked(client, api.url("/y")) == b"abc" * 9

    assert api.asked[0].headers["Accept-Encoding"] == "gzip, deflate"


async def test_a_url_is_sent_as_it_is(api: UpstreamApi, clock: Waiting):
    """No other spelling of what is encoded; a query is added to what is there."""
    async with upstream(clock) as client:
        with pytest.raises(SourceDataInvalid, match="404"):
            await asked(client, api.url("/a%2Fb%20c//d?x=%2F&y=%61"), query={"z": "1 &"})

    assert api.asked[0].raw == "/a%2Fb%20c//d?x=%2F&y=%61&z=1%20%26"


@pytest.mark.parametrize("url", ["ftp://a.example/", "http://u:s3cret@a.example/", "http://a b/", "/x", "http://a#b"])
async def test_what_is_no_url(url: str, clock: Waiting):
    """It is refused before anything is sent."""
    async with upstream(clock) as client:
        with pytest.raises(SourceDataInvalid, match="can't be requested"):
            await asked(client, url)

    assert clock.waited == []


# -- access --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auth", "name", "value"),
    [
        ({"bearer": "crm_token"}, "Authorization", "Bearer s3cret"),
        (
            {"basic": {"username": "é", "password": "crm_token"}},
            "Authorization",
            "Basic " + b64encode("é:s3cret".encode()).decode(),
        ),
        ({"header": {"name": "X-Api-Key", "secret": "crm_token"}}, "X-Api-Key", "s3cret"),
    ],
)
async def test_access(auth: dict[str, Any], name: str, value: str, api: UpstreamApi, clock: Waiting):
    """Each way to send the secret, with the other headers of the job config."""
    async with upstream(clock, auth=auth, headers={"user-agent": "u", "X-Tenant": "t"}) as client:
        await asked(client, api.url("/x"))

    sent = api.asked[0].headers
    assert sent[name] == value
    assert (sent["X-Tenant"], sent.getall("User-Agent"), sent["Accept"]) == ("t", ["u"], "application/json")


async def test_a_secret_that_there_is_not(clock: Waiting):
    """It is told before the first request."""
    with pytest.raises(SecretMissing, match="PIPELINE_SECRETS__OTHER"):
        async with upstream(clock, auth={"bearer": "other"}):
            pass


@pytest.mark.parametrize("value", ["a\nX-Other: b", "a\r\n", " a", "a\0"])
async def test_a_secret_that_cannot_be_sent(value: str, clock: Waiting, monkeypatch: pytest.MonkeyPatch):
    """A line end would begin another header; the message doesn't repeat the secret."""
    monkeypatch.setitem(SECRETS, "crm_token", value)
    with pytest.raises(SettingsError, match="'crm_token' can't be sent") as raised:
        async with upstream(clock, auth={"bearer": "crm_token"}):
            pass

    assert "Other" not in str(raised.value)


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_access(status: int, api: UpstreamApi, clock: Waiting):
    """It isn't tried again, and names the secret, not what it is; nor does the log."""
    api.on("/y", Reply(b"s3cret", status=status))
    with capture_logs() as logs:
        async with upstream(clock, auth={"bearer": "crm_token"}) as client:
            with pytest.raises(AccessDenied, match="'crm_token'") as raised:
                await asked(client, api.url("/y?token=s3cret"))

    assert raised.value.exit_code == 77
    assert len(api.asked) == 1
    assert "s3cret" not in f"{raised.value} {logs} {client!r}"


async def test_no_cookie_is_kept(api: UpstreamApi, clock: Waiting):
    """A session that the API opens for one agency is nobody else's."""
    api.on("/x", Reply({}, headers={"Set-Cookie": "session=1; Path=/"}))
    async with upstream(clock) as client:
        await asked(client, api.url("/x"))
        await asked(client, api.url("/x"))

    assert "Cookie" not in api.asked[1].headers


async def test_the_environment_has_no_say(
    api: UpstreamApi, clock: Waiting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """No proxy and no .netrc: the job config and the settings are all there is."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {LOOPBACK} login someone password s3cret\n")
    netrc.chmod(0o600)
    for name, value in {
        "HTTP_PROXY": "http://127.0.0.1:1",
        "http_proxy": "http://127.0.0.1:1",
        "NETRC": str(netrc),
    }.items():
        monkeypatch.setenv(name, value)
    async with upstream(clock) as client:
        await asked(client, api.url("/x"))

    assert "Authorization" not in api.asked[0].headers


# -- retries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_statuses_that_may_pass(status: int, api: UpstreamApi, clock: Waiting):
    """The same request is sent again, each time after twice the pause."""
    api.faults.append(first(4, Reply(status=status)))
    async with upstream(clock) as client:
        assert await asked(client, api.url("/x"), query={"p": "1"}) == b'{"a":1}'

    assert [request.raw for request in api.asked] == ["/x?p=1"] * 5
    assert clock.waited == [0.5, 1, 2, 4]


@pytest.mark.parametrize(
    ("status", "kind", "exit_code"),
    [(429, Throttled, 75), (503, UpstreamUnavailable, 69), (500, UpstreamUnavailable, 69), (408, UpstreamUnavailable, 69)],
)  # fmt: skip
async def test_retries_have_an_end(
    status: int, kind: type[PipelineError], exit_code: int, api: UpstreamApi, clock: Waiting
):
    """Then the run's attempt fails for now, and says what came last."""
    api.on("/x", Reply(status=status))
    async with upstream(clock, max_retries=2) as client:
        with pytest.raises(kind, match=str(status)) as raised:
            await asked(client, api.url("/x"))

    assert len(api.asked) == 3
    assert raised.value.retryable
    assert raised.value.exit_code == exit_code


@pytest.mark.parametrize("status", [400, 404, 409, 410, 422, 300, 304])
async def test_statuses_that_will_not_pass(status: int, api: UpstreamApi, clock: Waiting):
    """The same request would have the same answer."""
    api.on("/x", Reply(status=status))
    async with upstream(clock) as client:
        with pytest.raises(SourceDataInvalid, match=str(status)):
            await asked(client, api.url("/x"))

    assert len(api.asked) == 1


async def test_pauses_are_shortened_by_chance_and_bounded(api: UpstreamApi, clock: Waiting):
    """So that not all clients come back at once, and none stays away for long."""
    api.faults.append(first(9, Reply(status=500)))
    async with upstream(clock, jitter=1, max_retries=9) as client:
        await asked(client, api.url("/x"))

    assert clock.waited == [0.25, 0.5, 1, 2, 4, 8, 15, 15, 15]


async def test_many_faults(api: UpstreamApi, clock: Waiting):
    """With a third of all requests failing in all ways, every answer comes in the end."""
    for seed, fault in enumerate([Reply(status=503), Raw(b""), cut_off(b""), Raw(b"HTTP/1.1 200")]):
        api.faults.append(share_of(0.1, fault, seed=seed))
    async with upstream(clock, max_retries=20) as client:
        answers = await asyncio.gather(*(asked(client, api.url("/x")) for _ in range(50)))

    assert answers == [b'{"a":1}'] * 50
    assert len(api.asked) > 50


@pytest.mark.parametrize(
    "fault",
    [
        Raw(b""),
        Raw(b"nonsense\r\n\r\n"),
        Raw(b"HTTP/1.1 200 OK\r\nContent-Le"),
        Raw(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n"),
        cut_off(b""),
        Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"),
        Reply(b"nonsense", headers={"Content-Encoding": "gzip"}),
    ],
    ids=lambda fault: repr(fault)[:60],
)
async def test_answers_that_break_before_their_body(fault: Any, api: UpstreamApi, clock: Waiting):
    """As long as nothing of the body was handed out, the request is repeated; else it would be UpstreamUnavailable."""
    api.faults.append(first(1, fault))
    async with upstream(clock) as client:
        assert await asked(client, api.url("/x")) == b'{"a":1}'

    api.faults[:] = [lambda asked: fault]
    async with upstream(clock, max_retries=1) as client:
        with pytest.raises(UpstreamUnavailable) as raised:
            await asked(client, api.url("/x"))
    assert "nonsense" not in str(raised.value), "what came may be anybody's data"


async def test_an_answer_that_breaks_off_in_the_middle(api: UpstreamApi, clock: Waiting):
    """What was handed out can't be taken back: the reader learns of it, and nothing is asked again."""
    api.faults.append(first(1, cut_off(b"x" * 100_000)))
    async with upstream(clock) as client, client.get(api.url("/x")) as answer:
        with pytest.raises(UpstreamUnavailable, match="broke off in the middle") as raised:
            await answer.read()

    assert raised.value.retryable
    assert len(api.asked) == 1


async def test_nobody_there(clock: Waiting):
    """A refused connection is tried again, then told by its cause."""
    async with UpstreamApi() as gone:
        url = gone.url("/x")
    async with upstream(clock, max_retries=2) as client:
        with pytest.raises(UpstreamUnavailable, match="no connection"):
            await asked(client, url)

    assert clock.waited == [0.5, 1]


async def test_a_host_without_address(clock: Waiting):
    """Perhaps only the name server is away."""
    async with upstream(clock, max_retries=0) as client:
        with pytest.raises(UpstreamUnavailable, match="no address"):
            await asked(client, "http://nobody.invalid/x")


@pytest.mark.parametrize("where", ["after", "halfway"])
async def test_answers_that_do_not_come(where: str, api: UpstreamApi):
    """Silence has an end, before the answer (tried again) and within its body."""
    never = asyncio.Event()
    api.on("/x", Reply(b"x" * 10, **{where: never}))
    async with upstream(SystemClock(), timeout="100ms", max_retries=1) as client:
        with pytest.raises(UpstreamUnavailable, match="timed out"):
            await asked(client, api.url("/x"))

    assert len(api.asked) == (2 if where == "after" else 1)


async def test_a_certificate_that_nobody_knows(clock: Waiting, tmp_path: Path):
    """Who the server is must be sure before a secret is sent; more tries don't make it so."""
    tls = LOCAL.server_side(tmp_path)
    async with UpstreamApi(tls=tls) as api, upstream(clock, auth={"bearer": "crm_token"}) as client:
        with pytest.raises(UpstreamUnavailable, match="certificate"):
            await asked(client, api.url("/x"))

    assert api.asked == []
    assert clock.waited == []


async def test_giving_up_a_request(api: UpstreamApi, clock: Waiting):
    """Whoever is cancelled while an answer is awaited leaves no request behind, and others aren't disturbed."""
    release = asyncio.Event()
    api.on("/slow", Reply({}, after=release))
    async with upstream(clock) as client:
        slow = asyncio.create_task(asked(client, api.url("/slow")))
        async with asyncio.timeout(10):
            while not api.asked:  # noqa: ASYNC110 - the server is in this loop
                await asyncio.sleep(0.01)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        release.set()

        assert await asked(client, api.url("/x")) == b'{"a":1}'


async def test_leaving_an_answer_early(clock: Waiting):
    """Its connection is closed at once: an API isn't kept writing what nobody reads."""
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.read() == b""
        closed.set()
        writer.close()

    async with await asyncio.start_server(serve, LOOPBACK, 0) as server, upstream(clock) as client:
        async with client.get(f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}/") as answer:
            assert await answer.read(4) == b"half"
        async with asyncio.timeout(10):
            await closed.wait()


# -- pace ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after(status: int, api: UpstreamApi, clock: Waiting):
    """An API that says when to come back is left alone until then, by everybody who asks it in this way."""
    api.faults.append(first(1, Reply(status=status, headers={"Retry-After": "7"})))
    paces = Paces(clock=clock)
    async with (
        upstream(clock, paces=paces, max_retries=1) as client,
        upstream(clock, paces=paces, max_retries=1) as other,
    ):
        await asyncio.gather(asked(client, api.url("/x")), _later(asked(other, api.url("/x")), api))

    assert len(api.asked) == 3
    assert clock.monotonic() >= START.timestamp() + 7
    assert max(clock.waited) > 6


async def _later(request: Any, api: UpstreamApi) -> None:
    async with asyncio.timeout(10):
        while not api.asked:  # noqa: ASYNC110 - the server is in this loop
            await asyncio.sleep(0)
    await request


async def test_retry_after_a_date(api: UpstreamApi, clock: Waiting):
    """As HTTP allows it, too; and it is meant by the API's clock, which the answer tells."""
    now = START + timedelta(hours=1)
    date, at = (format_datetime(moment, usegmt=True) for moment in (now, now + timedelta(seconds=20)))
    api.faults.append(first(1, Reply(status=503, headers={"Date": date, "Retry-After": at})))
    async with upstream(clock) as client:
        await asked(client, api.url("/x"))

    assert clock.monotonic() == START.timestamp() + 20


@pytest.mark.parametrize("status", [429, 503])
async def test_a_retry_after_that_is_too_long(status: int, api: UpstreamApi, clock: Waiting):
    """The run gives up its place at once, and comes back later."""
    api.on("/x", Reply(status=status, headers={"Retry-After": "61"}))
    async with upstream(clock) as client:
        with pytest.raises(Throttled, match="61 s, more than the 60 s") as raised:
            await asked(client, api.url("/x"))

    assert len(api.asked) == 1
    assert clock.waited == []
    assert raised.value.retryable
    assert raised.value.exit_code == 75
    assert raised.value.retry_after == 61


@pytest.mark.parametrize(("status", "error"), [(429, Throttled), (503, UpstreamUnavailable)])
async def test_a_short_retry_after_is_left_to_the_run_in_the_end(
    status: int, error: type[TransientError], api: UpstreamApi, clock: Waiting
):
    """When the retries here are used up, the run waits for as long."""
    api.on("/x", Reply(status=status, headers={"Retry-After": "7"}))
    async with upstream(clock, max_retries=1) as client:
        with pytest.raises(error) as raised:
            await asked(client, api.url("/x"))

    assert raised.value.retry_after == 7


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None), ("", None), ("soon", None), ("-5", None), ("1.5", None), ("٣", None), ("0", 0), (" 30 ", 30),
        ("Sun, 18 Jan 2026 10:00:30 GMT", 30), ("Sun, 18 Jan 2026 09:00:00 GMT", 0), ("Sunday", None),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", None), ("Mon, 01 Jan 2026 99999999999:00:00 GMT", None),
        ("Mon, 01 Jan 2026 00:00:00 +99999999999", None),
    ],
)  # fmt: skip
def test_reading_retry_after(header: str | None, seconds: float | None):
    """Seconds or a date, nothing else; a date that has passed is now."""
    assert retry_after(header, now=START) == seconds


async def test_the_rate_is_kept(api: UpstreamApi, clock: Waiting):
    """No more requests than the job config allows, also by several at once and by retries."""
    api.faults.append(first(2, Reply(status=500)))
    async with upstream(clock, requests_per_second=2) as client:
        await asyncio.gather(*(asked(client, api.url("/x")) for _ in range(5)))

    assert len(api.asked) == 7
    assert clock.monotonic() >= START.timestamp() + 3


# -- redirects -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_within_the_api(status: int, api: UpstreamApi, clock: Waiting):
    """It is followed, with the access; the answer tells where it came from."""
    api.on("/old", Reply(status=status, headers={"Location": "/x?y=1"}))
    async with upstream(clock, auth={"bearer": "crm_token"}) as client, client.get(api.url("/old")) as answer:
        assert answer.url == api.url("/x?y=1")

    assert [request.headers["Authorization"] for request in api.asked] == ["Bearer s3cret"] * 2


@pytest.mark.parametrize("auth", [{"bearer": "crm_token"}, {"header": {"name": "X-Api-Key", "secret": "crm_token"}}])
async def test_a_redirect_to_another_server(auth: dict[str, Any], api: UpstreamApi, clock: Waiting):
    """It gets neither the secret nor any header of the job config: another port is another server."""
    async with UpstreamApi() as other:
        other.on("/y", {"b": 2})
        api.on("/x", Reply(status=302, headers={"Location": other.url("/y")}))
        async with upstream(clock, auth=auth, headers={"X-Tenant": "t"}) as client:
            assert await asked(client, api.url("/x")) == b'{"b":2}'

    assert "s3cret" in str(api.asked[0].headers)
    assert "s3cret" not in str(other.asked[0].headers)
    assert "X-Tenant" not in other.asked[0].headers


async def test_a_redirect_to_a_server_that_wants_a_secret(api: UpstreamApi, clock: Waiting):
    """The message says why it got none."""
    async with UpstreamApi() as other:
        other.on("/y", Reply(status=401))
        api.on("/x", Reply(status=302, headers={"Location": other.url("/y")}))
        async with upstream(clock, auth={"bearer": "crm_token"}) as client:
            with pytest.raises(AccessDenied, match="a secret isn't sent to another host") as raised:
                await asked(client, api.url("/x"))
    assert str(raised.value).startswith(f"a redirect from {api.url('/x')} to {other.url('')} answers 401")


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("/x", "more than 10 times"),
        ("ftp://a.example/", "an invalid URL"),
        ("http://u:p@a.example/", "an invalid URL"),
        ("http://a.example:x/", "an invalid URL"),
    ],
)
async def test_redirects_that_cannot_be_followed(location: str, said: str, api: UpstreamApi, clock: Waiting):
    """Round in circles, or to what isn't a URL of http: an error of the API, not worth another try."""
    api.on("/x", Reply(status=302, headers={"Location": location}))
    async with upstream(clock) as client:
        with pytest.raises(SourceDataInvalid, match=said):
            await asked(client, api.url("/x"))

    assert len(api.asked) <= 11
    assert clock.waited == []


async def test_a_redirect_to_nowhere(api: UpstreamApi, clock: Waiting):
    """A redirect without a location is an answer that can't be read."""
    api.on("/x", Reply(status=302))
    async with upstream(clock) as client:
        with pytest.raises(SourceDataInvalid, match="302"):
            await asked(client, api.url("/x"))


@pytest.mark.parametrize(
    "reply",
    [
        *(Reply(status=status) for status in (400, 401, 404, 429, 500, 503)),
        Reply(status=503, headers={"Retry-After": "9999"}),
        Reply(status=302, headers={"Location": "/gone/jane?x=jane"}),
        Reply(status=302, headers={"Location": "/people/jane/2"}),
        Reply(status=302, headers={"Location": "ftp://jane/"}),
        Raw(b"jane\r\n\r\n"),
        cut_off(b"[1"),
    ],
)
async def test_no_message_shows_what_was_filled_in(reply: Any, api: UpstreamApi, clock: Waiting):
    """Where the caller says how to show the URL, neither errors nor logs show it otherwise, also after redirects."""
    api.on("/people/jane", reply)
    api.on("/people/jane/2", Reply(status=302, headers={"Location": "/people/jane/2"}))
    with capture_logs() as logged:
        async with upstream(clock, max_retries=1) as client:
            with pytest.raises(PipelineError) as raised:
                await asked(client, api.url("/people/jane?x=jane"), shown_as=api.url("/people/{values}?token=secret"))

    assert api.url("/people/{values}") in str(raised.value)
    for told in (str(raised.value), str(logged)):
        assert "jane" not in told
        assert "token" not in told


def test_a_redirect_out_of_https():
    """What was asked in secret isn't asked again in the open."""
    assert redirected("https://a.example/x", "https://b.example/y", shown_as="x") == "https://b.example/y"
    with pytest.raises(SourceDataInvalid, match="from https to http"):
        redirected("https://a.example/x", "http://a.example/x", shown_as="x")
