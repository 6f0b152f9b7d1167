"""What guards every answer of the board: headers, the Host header's check, and the token."""

import hmac
import time
from collections.abc import Callable
from hashlib import sha256

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline_processing.board.problems import problem

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on
COOKIE = "board_session"
SESSION_SECONDS = 12 * 3600
_OPEN = ("/livez", "/readyz", "/login")
"""Paths that need no token, as /static/. None of them shows data."""


class Sessions:
    """
    Sessions of browsers that have sent the token. They are signed with it, so that they survive a restart, hold in
    every process with the same token, and end when the token changes.
    """

    def __init__(self, token: str, *, now: Callable[[], float] = time.time) -> None:
        self._token = token.encode()
        self._now = now

    def knows(self, token: str) -> bool:
        """Whether this is the token. Takes the same time for every wrong one."""
        return hmac.compare_digest(token.encode(errors="surrogateescape"), self._token)

    def new(self) -> str:
        """Return a session for a cookie."""
        until = str(round(self._now()) + SESSION_SECONDS)
        return f"{until}.{self._signature(until)}"

    def holds(self, session: str) -> bool:
        """Whether this is a session that hasn't ended."""
        until, _, signature = session.partition(".")
        signed = hmac.compare_digest(signature.encode(errors="replace"), self._signature(until).encode())
        return signed and int(until) > self._now()

    def _signature(self, until: str) -> str:
        return hmac.new(self._token, f"board session until {until}".encode(errors="replace"), sha256).hexdigest()


class Guard:
    """
    ASGI middleware.

    It refuses requests for another host, so that a page of another site can't reach a board on loopback by DNS
    rebinding. With a token, it refuses requests without it. A board that listens on every address has a token and may
    have any name.
    """

    def __init__(self, app: ASGIApp, *, host: str, sessions: Sessions | None) -> None:
        self._app = app
        self._hosts = None if host in _ANY_ADDRESS else {*LOOPBACK, host.lower()}
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        app = self._app
        if self._hosts is not None and _host_of(headers.get("host", "")) not in self._hosts:
            app = problem(
                421,
                "Unknown host",
                "This board answers only for localhost and the address that it listens on (PIPELINE_BOARD__HOST). "
                "Use that address. A proxy must send it as the Host header.",
            )
        elif self._sessions is not None and not _is_open(scope["path"]) and not self._allowed(headers, self._sessions):
            app = self._refusal(scope)
        await app(scope, receive, send_guarded)

    def _allowed(self, headers: Headers, sessions: Sessions) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return sessions.knows(token.strip())
        return sessions.holds(cookie_parser(headers.get("cookie", "")).get(COOKIE, "."))

    def _refusal(self, scope: Scope) -> ASGIApp:
        if scope["path"].startswith("/api/"):
            return problem(
                401,
                "Token needed",
                "Send the board's token (PIPELINE_BOARD__TOKEN) as `Authorization: Bearer …`, or log in at /login.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return RedirectResponse("/login", status_code=303)


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith("/static/")


def _host_of(header: str) -> str:
    """Return a Host header without its port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()
