"""`/livez` and `/readyz` over HTTP, for the orchestrator, and `/metrics`, for Prometheus."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from pipeline_processing.log import get_logger
from pipeline_processing.telemetry.health import Health, probe_answer
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.metering import Exposition

log = get_logger(__name__)


@asynccontextmanager
async def health_server(
    health: Health, *, host: str, port: int, mask: Mask, exposition: Exposition | None = None
) -> AsyncIterator[None]:
    """
    Serve the endpoints for the length of the block. The probes answer 200, or 503 with the reasons. `exposition`
    returns the metrics; without it, there is no `/metrics`.

    If the port is taken, log a warning and continue without them. The probes fail, so the orchestrator notices at once.
    """
    application = web.Application()
    application.router.add_get("/livez", _answer(health.not_alive, mask))
    application.router.add_get("/readyz", _answer(health.not_ready, mask, notes=lambda: health.notes))
    if exposition is not None:
        application.router.add_get("/metrics", _metrics(exposition))
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            log.warning(
                "no /livez and /readyz: the address can't be used; set PIPELINE_HTTP__HOST and PIPELINE_HTTP__PORT",
                host=host,
                port=port,
                error=error.strerror or str(error),
            )
        else:
            log.info("answering /livez and /readyz", addresses=[f"{at[0]}:{at[1]}" for at in runner.addresses])
        yield
    finally:
        await runner.cleanup()


def _answer(
    problems: Callable[[], list[str]], mask: Mask, *, notes: Callable[[], list[str]] = list
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        status, body = probe_answer(problems(), notes(), mask)
        return web.json_response(body, status=status)

    return answer


def _metrics(exposition: Exposition) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        text, content_type = exposition(request.headers.get("Accept", ""))
        return web.Response(body=text, headers={"Content-Type": content_type})

    return answer
