"""Who may see the board, and what guards every answer."""

from __future__ import annotations

import pytest

from pipeline_processing.board.security import COOKIE, SESSION_SECONDS, Sessions
from tests.unit.board.asking import Answer, ask
from tests.unit.board.conftest import TOKEN, Parts

BEARER = {"Authorization": f"Bearer {TOKEN}"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize(
    "path", ["/", "/static/board.css", "/api/v1/overview", "/api/v1/nothing", "/api/v1/runs?limit=x", "/livez"]
)
async def test_every_answer_has_the_headers(parts: Parts, path: str) -> None:
    """Files, answers and problems alike. No other site may read them."""
    headers = (await ask(parts.app(), path)).headers

    assert "default-src 'self'" in headers["content-security-policy"]
    assert "unsafe-inline" not in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("listens_on", "host", "status"),
    [
        ("127.0.0.1", "localhost:6066", 200),
        ("127.0.0.1", "LOCALHOST", 200),
        ("127.0.0.1", "127.0.0.1:9", 200),
        ("127.0.0.1", "[::1]:6066", 200),
        ("127.0.0.1", "evil.example", 421),
        ("127.0.0.1", "localhost.evil.example", 421),
        ("127.0.0.1", "", 421),
        ("10.0.0.7", "10.0.0.7:6066", 200),
        ("10.0.0.7", "evil.example", 421),
        ("0.0.0.0", "board.internal", 200),
    ],
)
async def test_another_host_is_refused(parts: Parts, listens_on: str, host: str, status: int) -> None:
    """A page of another site that resolves to loopback names its own host."""
    app = parts.app(host=listens_on, token=TOKEN)

    assert (await ask(app, "/api/v1/overview", headers={"Host": host, **BEARER})).status == status


async def test_without_a_token_nothing_asks_for_it(parts: Parts) -> None:
    """And there is no login."""
    app = parts.app()
    assert (await ask(app, "/api/v1/overview")).status == 200
    assert (await ask(app, "/login")).status == 404


@pytest.mark.parametrize("path", ["/api/v1/overview", "/api/v1/live", "/api/v1/openapi.json", "/api/v1/nothing"])
@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Cookie": f"{COOKIE}={TOKEN}"}],
    ids=["none", "wrong", "no_scheme", "token_as_cookie"],
)
async def test_the_api_needs_the_token(parts: Parts, path: str, headers: dict[str, str]) -> None:
    """401, as a problem that says what to send."""
    answer = await ask(parts.app(token=TOKEN), path, headers=headers)

    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"
    assert TOKEN not in answer.body.decode()


async def test_the_token_opens_the_api(parts: Parts) -> None:
    """In the header only: an address with it would be logged and remembered."""
    app = parts.app(token=TOKEN)
    assert (await ask(app, "/api/v1/overview", headers=BEARER)).status == 200
    assert (await ask(app, f"/api/v1/overview?token={TOKEN}")).status == 401


async def test_pages_lead_to_the_login(parts: Parts) -> None:
    """Files of the page hold no data, and orchestrators have no token."""
    app = parts.app(token=TOKEN)
    for path in ("/", "/runs/r", "/agencies/7"):
        answer = await ask(app, path)
        assert (answer.status, answer.headers["location"]) == (303, "/login")
    for path, status in (("/login", 200), ("/static/board.css", 200), ("/livez", 200), ("/readyz", 503)):
        assert (await ask(app, path)).status == status


async def logged_in(parts: Parts, token: str, **headers: str) -> Answer:
    body = f"token={token.replace(' ', '+')}".encode()
    return await ask(parts.app(token=TOKEN), "/login", method="POST", body=body, headers=FORM | headers)


async def test_a_browser_logs_in(parts: Parts) -> None:
    """The cookie isn't the token, is sent to no other site, and no script can read it."""
    answer = await logged_in(parts, TOKEN)

    assert (answer.status, answer.headers["location"]) == (303, "/")
    session, *attributes = answer.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=strict", "Path=/", f"Max-Age={SESSION_SECONDS}"} <= set(attributes)
    assert "Secure" not in attributes
    assert TOKEN not in session
    assert (await ask(parts.app(token=TOKEN), "/api/v1/overview", headers={"Cookie": f"a=b; {session}"})).status == 200
    assert (await ask(parts.app(token=TOKEN), "/", headers={"Cookie": session})).status == 200
    other = parts.app(token="another token of the board")
    assert (await ask(other, "/api/v1/overview", headers={"Cookie": session})).status == 401


async def test_behind_https_the_cookie_is_secure(parts: Parts) -> None:
    answer = await logged_in(parts, TOKEN, **{"X-Forwarded-Proto": "https"})
    assert "Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize("token", ["", "wrong", "wr\udcffng"[:2], "ä" * 20])
async def test_a_wrong_token_logs_nobody_in(parts: Parts, token: str) -> None:
    """The form comes again, and says so."""
    answer = await logged_in(parts, token)
    assert answer.status == 401
    assert "set-cookie" not in answer.headers
    assert 'role="alert"' in answer.body.decode()


async def test_a_login_is_short(parts: Parts) -> None:
    assert (await logged_in(parts, "x" * 10_000)).status == 413


def test_a_session_ends() -> None:
    """After twelve hours, and with any change of it."""
    time = 1000.0
    sessions = Sessions(TOKEN, now=lambda: time)
    session = sessions.new()
    assert sessions.holds(session)

    until, _, signature = session.partition(".")
    for forged in ("", ".", session[:-1], f"{int(until) + 1}.{signature}", f"ä.{signature}", f"{until}.ä"):
        assert not sessions.holds(forged)
    time += SESSION_SECONDS
    assert not sessions.holds(session)
