"""Build `board`. Part of the composition root."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from socket import socket
from urllib.parse import quote

from starlette.types import ASGIApp

from pipeline_processing.agency_data_job.loading import load_job_config
from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.clock import HistoryClock, SystemClock
from pipeline_processing.aio.tasks import in_time
from pipeline_processing.app import history
from pipeline_processing.app.kafka import topics as topics_client
from pipeline_processing.board.api import Api
from pipeline_processing.board.application import Probes, application
from pipeline_processing.board.figures import TopicFigures
from pipeline_processing.board.live import Live
from pipeline_processing.board.server import listening, serve
from pipeline_processing.board.triggers import OpenWindows, TriggerList
from pipeline_processing.board.views import Views
from pipeline_processing.errors import HistoryUnavailable, JobConfigError
from pipeline_processing.history.postgres.board import PostgresBoard
from pipeline_processing.history.postgres.database import HistoryDatabase
from pipeline_processing.history.postgres.letters import PostgresLetters
from pipeline_processing.history.postgres.reads import PostgresHistory
from pipeline_processing.log import get_logger
from pipeline_processing.published.schemas import error_kinds
from pipeline_processing.requests.redrive import DeadLetters
from pipeline_processing.requests.watching import LiveProgress
from pipeline_processing.settings.settings import Settings
from pipeline_processing.telemetry.health import Health, Pulse, Servers
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.triggers.config import Trigger
from pipeline_processing.triggers.loading import load_triggers
from pipeline_processing.triggers.topics import app_id_of, changelog_of

log = get_logger(__name__)

_CONNECTIONS = 3
_FIRST_SECONDS = 3.0
"""How long the history may delay the start."""
_ANSWER_SECONDS = 10.0
"""The longest that a query may take."""


@dataclass(frozen=True, slots=True)
class Board:
    """The board, ready to run."""

    app: ASGIApp
    live: Live
    progress: LiveProgress
    health: Health
    listener: socket
    address: str

    async def run(self, stop: asyncio.Event) -> None:
        """Answer until `stop` is set, then end all streams and requests."""
        with suppress(HistoryUnavailable, TimeoutError):  # the first look tells the pages
            # Settings that waiting can't fix end the command.
            await in_time(self.live.overview(), seconds=_FIRST_SECONDS)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self.progress.read())
            group.create_task(self.live.run(stop))
            self.health.state = "serving"
            log.info("the board is at this address", address=self.address)
            await serve(self.app, self.listener, stop=stop)
            self.health.state = "stopping"
            reading.cancel()
        log.info("stopped")


@asynccontextmanager
async def board(settings: Settings, *, mask: Mask) -> AsyncIterator[Board]:
    """
    Open the board and its address.

    Raises SettingsError, or InvalidTriggers if the triggers file can't be used.
    """
    triggers = _triggers(settings)
    host, port = settings.board.host, settings.board.port
    token = settings.require_board_token()
    clock = HistoryClock(SystemClock())
    servers = Servers(clock=clock)
    health = Health(pulses=[pulse := Pulse("live", clock=clock)], servers=servers)
    kafka = Server("Kafka", clock=clock)  # not one of `servers`: the board does without it
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(listening(host, port))
        client = await stack.enter_async_context(
            history.database(settings, connections=_CONNECTIONS, command_seconds=_ANSWER_SECONDS, read_only=True)
        )
        database = HistoryDatabase(client, schema=settings.history.schema_name)
        topics = await stack.enter_async_context(topics_client(settings))
        reads = PostgresBoard(database)
        views = Views(
            mask=mask,
            trace_url=settings.board.trace_url,
            kinds={kind: about["description"] for kind, about in error_kinds().items()},
        )
        progress = LiveProgress(
            topics=topics,
            topic=settings.kafka.progress_topic,
            clock=clock,
            on_event=lambda run_id: live.tell_progress(run_id),
        )
        figures = TopicFigures(topics=topics, names=settings.kafka, server=kafka, clock=clock)
        live = Live(
            reads=reads,
            progress=progress,
            figures=figures,
            views=views,
            clock=clock,
            history=servers.history,
            kafka=kafka,
            pulse=pulse,
        )
        windows = OpenWindows(topics=topics, topic=changelog_of(app_id_of(settings.kafka)), server=kafka)
        stack.callback(windows.close)
        stack.callback(figures.close)
        letters = DeadLetters(topics=topics, topic=settings.kafka.dead_letters_topic, kept=PostgresLetters(database))
        asgi = application(
            api=Api(
                reads=reads,
                agency_key=_agency_key(settings),
                history=PostgresHistory(database),
                live=live,
                letters=letters,
                triggers=TriggerList(triggers, windows=windows),
                views=views,
                clock=clock,
            ),
            live=live,
            host=host,
            token=None if token is None else token.get_secret_value(),
            mask=mask,
            probes=Probes(
                not_alive=health.not_alive,
                not_ready=health.not_ready,
                notes=lambda: [] if kafka.problem is None else [f"Kafka: {kafka.problem}"],
            ),
        )
        shown = f"[{host}]" if ":" in host else quote(host)
        address = f"http://{shown}:{listener.getsockname()[1]}"
        yield Board(asgi, live, progress, health, listener, address)


def _agency_key(settings: Settings) -> AgencyKey:
    """Return what the job config's keys are; integers if there is none, or it can't be read: the board runs without."""
    try:
        return load_job_config(settings.job_config_file).agency_key if settings.job_config_file else AgencyKey.INTEGER
    except JobConfigError as error:
        log.warning("the job config can't be read, so agencies are searched by integers", error=str(error))
        return AgencyKey.INTEGER


def _triggers(settings: Settings) -> Sequence[Trigger]:
    if settings.triggers_file is None:
        return ()
    config = None if settings.job_config_file is None else load_job_config(settings.job_config_file)
    return load_triggers(settings.triggers_file, job_config=config, kafka=settings.kafka).triggers
