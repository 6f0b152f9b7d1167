"""How `serve` is put together: part of the composition root."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from opentelemetry.trace import Tracer

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.aio.stopping import leave_seconds
from pipeline_processing.app import one_run as app
from pipeline_processing.app.data_path import data_path
from pipeline_processing.app.isolated import IsolatedAttempts
from pipeline_processing.messaging.kafka.incarnation import Incarnation
from pipeline_processing.messaging.kafka.requests import KafkaRequests
from pipeline_processing.messaging.lasting_events import LastingEvents
from pipeline_processing.messaging.port import RequestStream
from pipeline_processing.runs.history_clock import HistoryClock
from pipeline_processing.serving.intake import Intake
from pipeline_processing.serving.outbox import Outbox
from pipeline_processing.serving.progress_events import ProgressEvents
from pipeline_processing.serving.serve import Service
from pipeline_processing.serving.worker import Worker
from pipeline_processing.settings.settings import Settings
from pipeline_processing.telemetry.health import Health, Pulse
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.outage import Outage
from pipeline_processing.web.health import health_server

_OTHER_CONNECTIONS = 4
"""To the history, besides one a run for its writes: intake, outbox, claims, and one to spare."""


@asynccontextmanager
async def service(
    settings: Settings,
    config: AgencyJobConfig,
    *,
    tracer: Tracer,
    mask: Mask,
    after: Callable[[str], None] = lambda step: None,
) -> AsyncIterator[Service]:
    """All of it, ready to run."""
    clock, concurrency = HistoryClock(SystemClock()), settings.worker.concurrency
    kafka, database_of_runs, storage = Outage("Kafka"), Outage("the history"), Outage("the destination")
    pulses = {name: Pulse(name, clock=clock) for name in ("intake", "worker", "outbox")}
    health = Health(pulses=list(pulses.values()), outages=(kafka, database_of_runs, storage))
    async with AsyncExitStack() as stack:
        aside = await stack.enter_async_context(app.watched_aside())
        # It answers while the event loop is blocked, and says so when that lasts: see `Pulse`.
        answers = health_server(health, host=settings.http.host, port=settings.http.port, mask=mask)
        await stack.enter_async_context(aside.loop.opened(answers))
        runs = await stack.enter_async_context(app.history(settings, connections=concurrency + _OTHER_CONNECTIONS))
        leases = await stack.enter_async_context(
            app.leases(settings, aside, queue=runs.queue, clock=clock, concurrency=concurrency)
        )
        path = await stack.enter_async_context(data_path(settings, config, runs=concurrency, mask=mask, clock=clock))
        letters = await stack.enter_async_context(app.letters(settings))
        looker = await stack.enter_async_context(app.topics(settings))
        sender = LastingEvents(await stack.enter_async_context(app.events(settings)), topics=looker)
        outbox = Outbox(
            runs=runs.outbox,
            events=sender,
            topic=settings.kafka.completions_topic,
            clock=clock,
            pulse=pulses["outbox"],
            kafka=kafka,
            history=database_of_runs,
        )
        progress = ProgressEvents(events=sender, topic=settings.kafka.progress_topic, clock=clock)

        def ended(run_id: str) -> None:
            progress.forget(run_id)
            outbox.wake()

        worker = Worker(
            executor=app.executor(
                settings,
                config,
                runs=runs,
                leases=leases,
                path=path,
                clock=clock,
                tracer=tracer,
                mask=mask,
                retry=app.retry_policy(settings),
                leave_seconds=leave_seconds(settings.worker.drain_seconds),
                on_progress=progress.tell,
                isolated=IsolatedAttempts(settings, config, mask=mask, on_progress=progress.tell),
                after=after,
            ),
            concurrency=concurrency,
            drain_seconds=settings.worker.drain_seconds,
            clock=clock,
            pulse=pulses["worker"],
            history=database_of_runs,
            on_ended=ended,
        )

        def accepted() -> None:
            worker.wake()
            outbox.wake()  # a finished run that was asked for again sends its event again

        incarnation = Incarnation()  # over all subscriptions: the topic may be made anew between two of them

        @asynccontextmanager
        async def subscribed() -> AsyncIterator[RequestStream]:
            await looker.ensure()
            async with KafkaRequests(settings=settings.kafka, incarnation=incarnation) as stream:
                yield stream

        yield Service(
            intake=Intake(
                subscribe=subscribed,
                events=sender,
                dead_letters_topic=settings.kafka.dead_letters_topic,
                runs=runs.intake,
                letters=letters,
                config=config,
                config_id=path.config_id,
                clock=clock,
                tracer=tracer,
                mask=mask,
                pulse=pulses["intake"],
                kafka=kafka,
                history=database_of_runs,
                on_accepted=accepted,
            ),
            worker=worker,
            outbox=outbox,
            progress=progress,
            runs=runs,
            config_id=path.config_id,
            destinations=path.destinations,
            topics=looker,
            requests_topic=settings.kafka.requests_topic,
            clock=clock,
            health=health,
            kafka=kafka,
            history=database_of_runs,
            storage=storage,
        )
