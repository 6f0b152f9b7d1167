"""Runs the demo from start to end: starts servers and the service, tells the story, removes everything."""

import asyncio
import contextlib
import shutil
import sysconfig
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from shlex import quote

from opentelemetry.trace import Tracer

from pipeline_processing.agency_data_job.config import AgencyJobConfig, load_job_config
from pipeline_processing.app import one_run
from pipeline_processing.app.service import service
from pipeline_processing.demo.evidence import expect
from pipeline_processing.demo.page import Page
from pipeline_processing.demo.sample import BUCKET, DATABASE, PREFIX, job_config_text
from pipeline_processing.demo.story import Story
from pipeline_processing.embedded.ports import LOOPBACK
from pipeline_processing.embedded.servers import EmbeddedServers, embedded_servers
from pipeline_processing.settings.loader import load_settings
from pipeline_processing.settings.settings import Settings
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.terminal.event_loop import run_async
from pipeline_processing.terminal.render import duration

_PROGRAM = "pipeline-processing"
_SERVICE_ONLY = {"PIPELINE_HTTP__PORT": "0"}
"""Any free port, because the user may run another service."""


def tell(*, page: Page, tracer: Tracer, mask: Mask, keep: bool, environ: Mapping[str, str]) -> None:
    """
    Print the story. With `keep`, then keep servers and service running until Ctrl-C or SIGTERM. `environ` is the
    environment of the user's shells.

    Raises EmbeddedServerError, StoryUntrue, or a PipelineError.
    """
    page.chapter("Three servers and the service start")
    started = time.monotonic()
    with embedded_servers(say=page.say) as servers:
        took = duration((time.monotonic() - started) * 1000)
        page.say(
            f"Postgres listens on {LOOPBACK}:{servers.postgres.port}, SeaweedFS (S3) on "
            f"{LOOPBACK}:{servers.seaweedfs.port}, Kafka on {servers.kafka.bootstrap_servers}. "
            f"All were up after {took}."
        )
        environment = _prepared(servers)
        settings = load_settings({**environment, **_SERVICE_ONLY}, mask=mask).settings
        paste = lines_to_paste(environment, environ) if keep else None
        run_async(_tell_story(page, settings, tracer, mask, paste=paste))
    if keep:
        page.say("The service has stopped, and the servers are gone.")


async def _tell_story(page: Page, settings: Settings, tracer: Tracer, mask: Mask, *, paste: list[str] | None) -> None:
    applied = await one_run.migrate(settings)
    expect(bool(applied), "the new database had a run history already")
    config = load_job_config(settings.require_job_config_file())
    async with _serving(settings, config, tracer=tracer, mask=mask):
        page.say(f"The run history is set up, and the service starts, as `{_PROGRAM} serve` would.")
        await Story(page=page, settings=settings, tracer=tracer).tell()
        page.chapter("How to look further")
        if paste is None:
            page.say(
                f"All of it will now be removed. `make demo KEEP=1`, or `{_PROGRAM} demo --keep`, keeps servers and "
                "service running, and prints what another shell needs."
            )
            return
        _hand_over(page, paste)
        with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C or SIGTERM, which end the demo
            await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def _serving(settings: Settings, config: AgencyJobConfig, *, tracer: Tracer, mask: Mask) -> AsyncIterator[None]:
    """
    Run the service inside the block, as `serve` does. It hands its runs back when the block ends.

    If the service fails, the block ends with its error.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()
    try:
        async with service(settings, config, tracer=tracer, mask=mask) as parts, asyncio.TaskGroup() as group:
            group.create_task(parts.run(stop, hurry, once=False))
            yield
            hurry.set()
            stop.set()
    except ExceptionGroup as errors:
        # The first error is the cause; it cancelled the others.
        raise errors.exceptions[0] from None


def _prepared(servers: EmbeddedServers) -> dict[str, str]:
    """Create database, bucket and job config. Returns the PIPELINE_* variables for them."""
    servers.postgres.create_database(DATABASE)
    servers.seaweedfs.create_bucket(BUCKET)
    job_config = servers.folder / "job_config.yaml"
    job_config.write_text(job_config_text(), encoding="utf-8")
    settings = servers.environment(database=DATABASE, bucket=BUCKET, prefix=PREFIX)
    return {**settings, "PIPELINE_JOB_CONFIG_FILE": str(job_config)}


def _hand_over(page: Page, paste: list[str]) -> None:
    page.say("Servers and service keep running. Paste this into another shell:")
    page.code("\n".join(paste))
    page.say("Then try, for instance (there is no agency 999, so its run fails):")
    page.code(
        f"{_PROGRAM} submit agency_data_job --agency-id 105 --agency-id 108 --agency-id 999 --follow\n"
        f"{_PROGRAM} history\n"
        f"{_PROGRAM} replay --failed\n"
        f"{_PROGRAM} dead-letters list"
    )
    page.say("Ctrl-C here stops service and servers, and removes their data.")


def lines_to_paste(environment: Mapping[str, str], environ: Mapping[str, str]) -> list[str]:
    """Return lines for a shell with `environ`, after which commands use `environment` and no other settings."""
    lines = []
    others = [name for name in environ if name.upper().startswith("PIPELINE_") and name not in environment]
    if others := sorted(filter(str.isidentifier, others)):
        lines.append(f"unset {' '.join(others)}")
    if any(environ.get(name) for proxy in ("http_proxy", "all_proxy") for name in (proxy, proxy.upper())):
        lines.append(f"export NO_PROXY={quote(without_proxy(environ))} no_proxy={quote(without_proxy(environ))}")
    scripts = Path(sysconfig.get_path("scripts"))
    if not shutil.which(_PROGRAM, path=environ.get("PATH")) and (scripts / _PROGRAM).is_file():
        lines.append(f'export PATH={quote(str(scripts))}:"$PATH"')
    return [*lines, *(f"export {name}={quote(value)}" for name, value in environment.items())]


def without_proxy(environ: Mapping[str, str]) -> str:
    """Return the NO_PROXY of `environ`, with the address of the embedded servers added."""
    before = environ.get("no_proxy") or environ.get("NO_PROXY")
    return f"{before},{LOOPBACK}" if before else LOOPBACK
