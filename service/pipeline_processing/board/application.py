"""The board as an ASGI application: pages, static files, login, API, live events and probes."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from pipeline_processing.board import openapi
from pipeline_processing.board.api import ENDPOINTS, Api, Endpoint
from pipeline_processing.board.live import Live
from pipeline_processing.board.parameters import InvalidParameters
from pipeline_processing.board.problems import problem
from pipeline_processing.board.security import COOKIE, SESSION_SECONDS, Guard, Sessions
from pipeline_processing.board.stream import EventStream
from pipeline_processing.errors import KafkaUnavailable, PipelineError, RunUnknown
from pipeline_processing.log import get_logger
from pipeline_processing.telemetry.health import probe_answer
from pipeline_processing.telemetry.masking import Mask

log = get_logger(__name__)

STATIC = Path(__file__).parent / "static"
API = "/api/v1"
_LONGEST_FORM = 4_096
_REVALIDATE = "no-cache"
"""Browsers keep static files and ask with their ETag whether they are current."""

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Probes:
    """What /livez and /readyz answer."""

    not_alive: Callable[[], list[str]]
    """Reasons to restart the process."""
    not_ready: Callable[[], list[str]]
    """Reasons why the process doesn't do its work."""
    notes: Callable[[], list[str]]
    """What an operator should know besides."""


def application(
    *,
    api: Api,
    live: Live,
    host: str,
    token: str | None,
    mask: Mask,
    probes: Probes,
) -> ASGIApp:
    """Return the application. `host` is the address that it listens on."""
    sessions = None if token is None else Sessions(token)
    static = _Static(directory=STATIC)
    routes: list[BaseRoute] = [
        *(Route(API + _taking_slashes(each.path), _answer(api, each, mask), methods=["GET"]) for each in ENDPOINTS),
        Route(f"{API}/live", EventStream(live), methods=["GET"]),
        Route(f"{API}/openapi.json", _described),
        Route("/livez", _probe(probes.not_alive, list, mask)),
        Route("/readyz", _probe(probes.not_ready, probes.notes, mask)),
        Route("/", static.page, methods=["GET"]),
        Route("/runs/{run_id}", _run_page, methods=["GET"]),
        Route(_taking_slashes("/agencies/{agency_id}"), _agency_page, methods=["GET"]),
        Mount("/static", static),
    ]
    if sessions is not None:
        routes += [
            Route("/login", _login_page, methods=["GET"]),
            Route("/login", partial(_log_in, sessions=sessions), methods=["POST"]),
        ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_problem, Exception: _bug})
    return Guard(app, host=host, sessions=sessions)


def _taking_slashes(path: str) -> str:
    """Return a route whose agency may have slashes in its key: they are decoded before routes are matched."""
    return path.replace("{agency_id}", "{agency_id:path}")


# -- the API -------------------------------------------------------------------------------------


def _answer(api: Api, endpoint: Endpoint, mask: Mask) -> Handler:
    async def answer(request: Request) -> Response:
        try:
            return Response(await api.body(endpoint, request), media_type="application/json")
        except InvalidParameters as error:
            return problem(400, "Invalid parameters", mask.text(str(error)), faults=error.faults)
        except RunUnknown as error:
            return problem(404, "Unknown run", mask.text(str(error)))
        except PipelineError as error:
            server = "Kafka" if isinstance(error, KafkaUnavailable) else "The history"
            return problem(503, f"{server} can't be used", mask.text(str(error)), headers={"Retry-After": "2"})

    return answer


async def _described(_: Request) -> Response:
    return Response(openapi.file(), media_type="application/json", headers={"Cache-Control": _REVALIDATE})


async def _http_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = "There is nothing at this address." if error.status_code == 404 else error.detail
    return problem(error.status_code, error.detail, detail, headers=error.headers)


async def _bug(_: Request, error: Exception) -> Response:
    """Starlette raises the error again after this answer, and the server logs it."""
    return problem(500, "Internal error", f"{type(error).__name__}: this is a bug. The board's log has the details.")


# -- pages ---------------------------------------------------------------------------------------


class _Static(StaticFiles):
    async def page(self, request: Request) -> Response:
        return await self.get_response("index.html", request.scope)

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = _REVALIDATE
        return response


# There is only one page. What it shows stands in the fragment of its address.


async def _run_page(request: Request) -> Response:
    return RedirectResponse(f"/#/runs/{quote(request.path_params['run_id'], safe='')}", status_code=303)


async def _agency_page(request: Request) -> Response:
    return RedirectResponse(f"/#/runs?{urlencode({'agency_id': request.path_params['agency_id']})}", status_code=303)


async def _login_page(_: Request) -> Response:
    return HTMLResponse(_login_html(failed=False))


async def _log_in(request: Request, *, sessions: Sessions) -> Response:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_FORM:
            return problem(413, "Too large", "A login form holds a token only.")
    form = parse_qs(body.decode(errors="replace"))
    if not sessions.knows(form.get("token", [""])[0]):
        log.warning("a login with a wrong token", client=request.client and request.client.host)
        return HTMLResponse(_login_html(failed=True), status_code=401)
    response = RedirectResponse("/", status_code=303)
    response.set_cookie(
        COOKIE, sessions.new(), max_age=SESSION_SECONDS, httponly=True, samesite="strict", secure=_is_https(request)
    )
    return response


def _is_https(request: Request) -> bool:
    """Whether the browser uses HTTPS, as a proxy in front of the board says."""
    return request.headers.get("x-forwarded-proto", request.url.scheme) == "https"


def _login_html(*, failed: bool) -> str:
    html = (STATIC / "login.html").read_text(encoding="utf-8")
    message = '<p role="alert">This is not the token. Ask whoever runs the board for it.</p>' if failed else ""
    return html.replace("<!-- message -->", message)


# -- probes --------------------------------------------------------------------------------------


def _probe(problems: Callable[[], list[str]], notes: Callable[[], list[str]], mask: Mask) -> Handler:
    async def answer(_: Request) -> Response:
        status, body = probe_answer(problems(), notes(), mask)
        return Response(orjson.dumps(body), status_code=status, media_type="application/json")

    return answer
