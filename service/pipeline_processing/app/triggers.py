"""Build `triggers`. Part of the composition root."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from opentelemetry.trace import Tracer

from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.aio.side_loop import SideLoop
from pipeline_processing.app import history, kafka
from pipeline_processing.errors import SettingsError
from pipeline_processing.messaging.dead_letters import KeepsLetters
from pipeline_processing.messaging.kafka.connection import Connection
from pipeline_processing.messaging.kafka.incarnation import Incarnation
from pipeline_processing.messaging.kafka.requests import KafkaRequests
from pipeline_processing.messaging.kafka.topics import KafkaTopics
from pipeline_processing.messaging.lasting_events import LastingEvents
from pipeline_processing.messaging.port import Outgoing, RequestStream
from pipeline_processing.requests.dead_letters import DeadLetters
from pipeline_processing.settings.settings import KafkaSettings, Settings
from pipeline_processing.sources.postgres.agency_ids import PostgresAgencyIds
from pipeline_processing.sources.postgres.source import source_database
from pipeline_processing.telemetry.health import Health, Pulse
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.metering import Metering
from pipeline_processing.telemetry.metrics import IntakeMetrics
from pipeline_processing.triggers.config import AgencyQuery, Triggers
from pipeline_processing.triggers.event_intake import Aside, EventIntake, EventReader
from pipeline_processing.triggers.faust_app import FaustLog
from pipeline_processing.triggers.matching import Terms
from pipeline_processing.triggers.other_files import OtherFiles
from pipeline_processing.triggers.process import NeededByTriggers, TriggersProcess
from pipeline_processing.triggers.run_requests import RunRequester
from pipeline_processing.triggers.scheduler import AgencyIds, Scheduler
from pipeline_processing.triggers.topics import app_id_of, changelog_of, entries_topic, triggers_topics
from pipeline_processing.triggers.watermarks import Watermarks
from pipeline_processing.triggers.windowing import EntryLog, WindowKeeper
from pipeline_processing.web.health import health_server

_QUERIES = 2
"""How many queries of schedules run at once."""


@asynccontextmanager
async def triggers_process(
    settings: Settings,
    triggers: Triggers,
    *,
    terms: Terms,
    tracer: Tracer,
    mask: Mask,
    metering: Metering,
) -> AsyncIterator[TriggersProcess]:
    """Open the process, ready to run."""
    clock, metrics = SystemClock(), metering.metrics
    app_id = app_id_of(settings.kafka)
    entries, changelog = entries_topic(settings.kafka), changelog_of(app_id)
    needed = NeededByTriggers(triggers.topics, clock=clock)
    pulses = {name: Pulse(name, clock=clock) for name in ("windows", *triggers.topics)}
    health = Health(pulses=list(pulses.values()), servers=needed)
    metrics.servers.watch(needed.readings)
    metrics.show_build("none")
    async with AsyncExitStack() as stack:
        aside = await stack.enter_async_context(SideLoop())
        endpoints = health_server(
            health, host=settings.http.host, port=settings.http.port, mask=mask, exposition=metering.exposition
        )
        await stack.enter_async_context(aside.opened(endpoints))
        topics = KafkaTopics(
            settings=settings.kafka.model_copy(update={"group_id": app_id}),
            others=triggers_topics(settings.kafka),
        )
        events = LastingEvents(await stack.enter_async_context(kafka.events(settings)), topics=topics)
        letters = DeadLetters(
            events=events,
            topic=settings.kafka.dead_letters_topic,
            store=await _letter_store(settings, stack),
            clock=clock,
            mask=mask,
            metrics=metrics,
        )
        put_aside = Aside(letters, kafka=needed.kafka, history=needed.history)
        triggers_id = identity_of(triggers)
        keeper = WindowKeeper(
            entries=EntryLog(topic=entries, reader=topics, events=events),
            requester=RunRequester(topic=settings.kafka.requests_topic, tracer=tracer, clock=clock),
            letters=put_aside,
            kafka=needed.kafka,
            watermarks=Watermarks(
                lambda topic: KafkaTopics(settings=_as_requests(settings.kafka, topic)),
                entries=partial(topics.ends, entries),
                clock=clock,
            ),
            files=OtherFiles(triggers_id, clock=clock, health=health),
            pulse=pulses["windows"],
        )
        metrics.windows.watch(lambda: [(keeper.open_windows, ())])
        metrics.overdue.watch(lambda: [(keeper.overdue_seconds(), ())])
        reader = EventReader(triggers.events, triggers_id=triggers_id, entries_topic=entries, clock=clock, terms=terms)

        def intake(topic: str) -> EventIntake:
            as_requests, incarnation = _as_requests(settings.kafka, topic), Incarnation()

            @asynccontextmanager
            async def subscribed() -> AsyncIterator[RequestStream]:
                async with KafkaRequests(settings=as_requests, incarnation=incarnation) as stream:
                    yield stream

            return EventIntake(
                subscribe=subscribed,
                topic_id=lambda: None if incarnation.id is None else incarnation.id.hex,
                reader=reader,
                events=events,
                aside=put_aside,
                pulse=pulses[topic],
                source=needed.sources[topic],
                metrics=IntakeMetrics(metrics, topic=topic, results=("taken", "dead_letter")),
            )

        scheduler = Scheduler(
            triggers.schedules,
            agency_ids=await _agency_ids(settings, triggers, terms, stack),
            leads=lambda: keeper.leads,
            triggers_id=triggers_id,
            entries_topic=entries,
            events=events,
            source=needed.agencies,
            kafka=needed.kafka,
        )
        windows = FaustLog(
            connection=Connection.of(settings.kafka),
            app_id=app_id,
            entries_topic=entries,
            keeper=keeper,
            topics=topics,
            clock=clock,
            health=health,
            pulse=pulses["windows"],
        )
        yield TriggersProcess(
            writers=[*(intake(topic).run for topic in triggers.topics), scheduler.run],
            windows=partial(windows.run, ticks=[keeper.close_due]),
            topics=topics,
            paired=(entries, changelog),
            kafka=needed.kafka,
            health=health,
        )


def _as_requests(kafka: KafkaSettings, topic: str) -> KafkaSettings:
    """Return the settings with which an upstream topic is read as the requests topic is elsewhere."""
    # A group for each topic, so that a topic that is missing, or comes later, disturbs no other.
    return kafka.model_copy(update={"requests_topic": topic, "group_id": f"{app_id_of(kafka)}.{topic}"})


def identity_of(triggers: Triggers) -> str:
    """Return what tells a triggers file from another one."""
    return hashlib.sha256(triggers.model_dump_json().encode()).hexdigest()[:12]


async def _agency_ids(settings: Settings, triggers: Triggers, terms: Terms, stack: AsyncExitStack) -> AgencyIds | None:
    """Open the source database if a schedule has a query. Raises SettingsError if none is configured."""
    if not any(isinstance(each.schedule.agencies, AgencyQuery) for each in triggers.schedules):
        return None
    database = source_database(settings.require_source_dsn(), connections=_QUERIES)
    return PostgresAgencyIds(database=await stack.enter_async_context(database), agency_key=terms.agency_key)


async def _letter_store(settings: Settings, stack: AsyncExitStack) -> KeepsLetters:
    if settings.history_dsn is None:
        return _NoLetters()
    return await stack.enter_async_context(history.letters(settings))


class _NoLetters:
    """Stands for the history's database where none is configured."""

    async def keep(self, letters: Sequence[Outgoing]) -> None:
        raise SettingsError(
            f"Kafka refuses {len(letters)} dead letter(s), and no history database is configured that could keep them. "
            "Correct the dead-letter topic's configuration, or set PIPELINE_HISTORY__DSN."
        )
