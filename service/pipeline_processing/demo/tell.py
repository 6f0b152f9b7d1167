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

from pipeline_processing.agency_data_job.loading import load_job_config
from pipeline_processing.app import history
from pipeline_processing.app.board import board
from pipeline_processing.app.service import service
from pipeline_processing.app.triggers import triggers_process
from pipeline_processing.demo.evidence import expect
from pipeline_processing.demo.page import Page
from pipeline_processing.demo.sample import BUCKET, DATABASE, PREFIX, job_config_text
from pipeline_processing.demo.story import Story
from pipeline_processing.demo.upstream import UPSTREAM_TOPIC, triggers_text
from pipeline_processing.embedded.ports import LOOPBACK
from pipeline_processing.embedded.servers import EmbeddedServers, embedded_servers
from pipeline_processing.errors import SettingsError
from pipeline_processing.messaging.kafka.topics import KafkaTopics
from pipeline_processing.messaging.service_topics import ServiceTopic
from pipeline_processing.settings.loader import load_settings
from pipeline_processing.settings.settings import Settings
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.metering import Metering
from pipeline_processing.terminal.event_loop import run_async
from pipeline_processing.terminal.render import duration
from pipeline_processing.triggers.loading import load_triggers
from pipeline_processing.triggers.matching import Terms

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
    applied = await history.migrate(settings)
    expect(bool(applied), "the new database had a run history already")
    await KafkaTopics(
        settings=settings.kafka, others=[ServiceTopic(UPSTREAM_TOPIC, "events of upstream services")]
    ).ensure()
    async with _running(settings, tracer=tracer, mask=mask):
        page.say(
            f"The run history is set up, and the service starts, as `{_PROGRAM} serve` and `{_PROGRAM} triggers` would."
        )
        await Story(page=page, settings=settings, tracer=tracer).tell()
        page.chapter("How to look further")
        if paste is None:
            page.say(
                f"All of it will now be removed. `make demo KEEP=1`, or `{_PROGRAM} demo --keep`, keeps servers and "
                "service running, shows all this on a live page, and prints what another shell needs."
            )
            return
        async with _board(settings, mask) as address:
            _hand_over(page, address, paste)
            with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C or SIGTERM, which end the demo
                await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def _running(settings: Settings, *, tracer: Tracer, mask: Mask) -> AsyncIterator[None]:
    """
    Run the service inside the block, as `serve` and `triggers` do. It hands its runs back when the block ends.

    If a part fails, the block ends with its error.
    """
    config = load_job_config(settings.require_job_config_file())
    triggers = load_triggers(settings.require_triggers_file(), job_config=config, kafka=settings.kafka)
    stop = asyncio.Event()
    try:
        async with (
            service(settings, config, tracer=tracer, mask=mask, metering=Metering()) as serving,
            triggers_process(
                settings, triggers, terms=Terms.of(config), tracer=tracer, mask=mask, metering=Metering()
            ) as watching,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(serving.run(stop, stop, once=False))
            group.create_task(watching.run(stop))
            yield
            stop.set()
    except ExceptionGroup as errors:
        # The first error is the cause; it cancelled the others.
        raise errors.exceptions[0] from None


@contextlib.asynccontextmanager
async def _board(settings: Settings, mask: Mask) -> AsyncIterator[str]:
    """Run the board inside the block. Returns its address: any free port if the usual one is taken."""
    other = settings.model_copy(update={"board": settings.board.model_copy(update={"port": 0})})
    stop = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        try:
            opened = await stack.enter_async_context(board(settings, mask=mask))
        except SettingsError:
            opened = await stack.enter_async_context(board(other, mask=mask))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        group.create_task(opened.run(stop))
        yield opened.address
        stop.set()


def _prepared(servers: EmbeddedServers) -> dict[str, str]:
    """Create database, bucket, job config and triggers file. Returns the PIPELINE_* variables for them."""
    servers.postgres.create_database(DATABASE)
    servers.seaweedfs.create_bucket(BUCKET)
    job_config = servers.folder / "job_config.yaml"
    job_config.write_text(job_config_text(), encoding="utf-8")
    settings = servers.environment(database=DATABASE, bucket=BUCKET, prefix=PREFIX)
    triggers = servers.folder / "triggers.yaml"
    triggers.write_text(triggers_text(), encoding="utf-8")
    return {**settings, "PIPELINE_JOB_CONFIG_FILE": str(job_config), "PIPELINE_TRIGGERS_FILE": str(triggers)}


def _hand_over(page: Page, board_address: str, paste: list[str]) -> None:
    page.say("Servers and service keep running. All of this story is on the board:")
    page.code(board_address)
    page.say("Paste this into another shell:")
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
