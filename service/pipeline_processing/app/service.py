"""Build `serve`. Part of the composition root."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from opentelemetry.trace import Tracer

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.aio.clock import Clock, HistoryClock, SystemClock
from pipeline_processing.app import history, kafka
from pipeline_processing.app import one_run as app
from pipeline_processing.app.data_path import data_path
from pipeline_processing.app.isolated import IsolatedAttempt
from pipeline_processing.http.signatures import signing_key
from pipeline_processing.messaging.kafka.incarnation import Incarnation
from pipeline_processing.messaging.kafka.requests import KafkaRequests
from pipeline_processing.messaging.lasting_events import LastingEvents
from pipeline_processing.messaging.port import RequestStream
from pipeline_processing.ports import Poster
from pipeline_processing.requests.dead_letters import DeadLetters
from pipeline_processing.runs.executor import Executor, Reporting
from pipeline_processing.serving.backlog import BacklogWatch
from pipeline_processing.serving.breaker import Breaker
from pipeline_processing.serving.intake import Intake, RequestReader
from pipeline_processing.serving.outbox import Outbox
from pipeline_processing.serving.progress_events import ProgressEvents
from pipeline_processing.serving.serve import Parts, Service
from pipeline_processing.serving.webhooks import Webhook, Webhooks, WebhookSender
from pipeline_processing.serving.worker import Worker, leave_seconds
from pipeline_processing.settings.settings import Settings
from pipeline_processing.sources.postgres.copy_reader import chosen_reader
from pipeline_processing.telemetry.health import Health, Pulse, Servers
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.metering import Metering
from pipeline_processing.telemetry.metrics import IntakeMetrics
from pipeline_processing.web.health import health_server

_OTHER_CONNECTIONS = 5
"""Connections to the history besides one per run: intake, outbox, claims, webhooks, and one to spare."""
_POLL_SECONDS = 1.0
"""How long a poll waits for requests. It returns at once when there are any, or when the service stops."""


async def _poster(stack: AsyncExitStack, clock: Clock) -> Poster:
    from pipeline_processing.http.posting import HttpPoster  # here, as few installations have webhooks

    return await stack.enter_async_context(HttpPoster(clock=clock))


@asynccontextmanager
async def service(
    settings: Settings, config: AgencyJobConfig, *, tracer: Tracer, mask: Mask, metering: Metering
) -> AsyncIterator[Service]:
    """Open the service, ready to run."""
    clock, concurrency = HistoryClock(SystemClock()), settings.worker.concurrency
    metrics = metering.metrics
    servers = Servers(clock=clock)
    pulses = {name: Pulse(name, clock=clock) for name in ("intake", "worker", "outbox")}
    health = Health(pulses=list(pulses.values()), servers=servers)
    metrics.servers.watch(servers.readings)
    metrics.show_build("cursor" if chosen_reader(settings.source.reader).decoder is None else "native")
    async with AsyncExitStack() as stack:
        aside = await stack.enter_async_context(app.watched_aside(metrics))
        # It answers even while the main event loop is blocked, and reports a long blockage; see `Pulse`.
        endpoints = health_server(
            health, host=settings.http.host, port=settings.http.port, mask=mask, exposition=metering.exposition
        )
        await stack.enter_async_context(aside.loop.opened(endpoints))
        connections = concurrency + _OTHER_CONNECTIONS
        runs = await stack.enter_async_context(history.run_store(settings, connections=connections, metrics=metrics))
        path = await stack.enter_async_context(
            data_path(settings, config, runs=concurrency, mask=mask, clock=clock, metrics=metrics)
        )
        renewed_aside = app.leases(
            settings,
            aside,
            queue=runs.queue,
            clock=clock,
            config_id=path.config_id,
            concurrency=concurrency,
            metrics=metrics,
        )
        leases = await stack.enter_async_context(renewed_aside)
        letters = await stack.enter_async_context(history.letters(settings))
        topics_client = await stack.enter_async_context(kafka.topics(settings))
        sender = LastingEvents(await stack.enter_async_context(kafka.events(settings)), topics=topics_client)
        outbox = Outbox(
            runs=runs.outbox,
            events=sender,
            topic=settings.kafka.completions_topic,
            clock=clock,
            pulse=pulses["outbox"],
            servers=servers,
            tracer=tracer,
        )
        webhooks = Webhooks(
            [
                WebhookSender(
                    Webhook(
                        name,
                        url=webhook.url.get_secret_value(),
                        key=signing_key(webhook.key.get_secret_value()),
                        states=webhook.states,
                    ),
                    deliveries=runs.deliveries,
                    poster=await _poster(stack, clock),
                    clock=clock,
                    history=servers.history,
                    health=health,
                    mask=mask,
                    metrics=metrics,
                )
                for name, webhook in settings.webhooks.items()
            ],
            deliveries=runs.deliveries,
        )
        progress = ProgressEvents(events=sender, topic=settings.kafka.progress_topic, clock=clock)

        def ended(run_id: str) -> None:
            progress.forget(run_id)
            outbox.wake()
            webhooks.wake()

        worker = Worker(
            executor=Executor(
                runs=runs,
                leases=leases,
                path=path,
                history=servers.history,
                retry=app.retry_policy(settings),
                reporting=Reporting(tracer=tracer, mask=mask, on_progress=progress.tell, metrics=metrics),
                leave_seconds=leave_seconds(settings.worker.drain_seconds),
                isolated=partial(
                    IsolatedAttempt, settings=settings, config=config, mask=mask, on_progress=progress.tell
                ),
            ),
            concurrency=concurrency,
            drain_seconds=settings.worker.drain_seconds,
            pulse=pulses["worker"],
            history=servers.history,
            breaker=Breaker(servers.of_runs, clock=clock, note=health.note),
            on_ended=ended,
            metrics=metrics,
        )

        def accepted() -> None:
            worker.wake()
            outbox.wake()  # a repeated request for a finished run sends its event again

        incarnation = Incarnation()  # shared by all subscriptions, because the topic may be recreated between them

        @asynccontextmanager
        async def subscribed() -> AsyncIterator[RequestStream]:
            await topics_client.ensure()
            async with KafkaRequests(
                settings=settings.kafka, incarnation=incarnation, worker=leases.worker, poll_seconds=_POLL_SECONDS
            ) as stream:
                yield stream

        intake = Intake(
            subscribe=subscribed,
            reader=RequestReader(config=config, config_id=path.config_id, tracer=tracer),
            runs=runs.intake,
            letters=DeadLetters(
                events=sender,
                topic=settings.kafka.dead_letters_topic,
                store=letters,
                clock=clock,
                mask=mask,
                metrics=metrics,
            ),
            pulse=pulses["intake"],
            servers=servers,
            on_accepted=accepted,
            metrics=IntakeMetrics(
                metrics, topic=settings.kafka.requests_topic, results=("accepted", "repeated", "dead_letter")
            ),
        )
        yield Service(
            parts=Parts(
                intake=intake,
                worker=worker,
                outbox=outbox,
                progress=progress,
                webhooks=webhooks,
                backlog=BacklogWatch(runs.queue, metrics),
            ),
            runs=runs,
            path=path,
            topics=topics_client,
            requests_topic=settings.kafka.requests_topic,
            servers=servers,
            health=health,
        )
