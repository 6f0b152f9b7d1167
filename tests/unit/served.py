"""The whole long-running service on in-memory ports, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import orjson
from opentelemetry.trace import Tracer

from pipeline_processing.messaging.lasting_events import LastingEvents
from pipeline_processing.messaging.port import Headers, Outgoing, Record, RequestStream
from pipeline_processing.requests.dead_letters import DeadLetters
from pipeline_processing.serving.backlog import BacklogWatch
from pipeline_processing.serving.breaker import Breaker
from pipeline_processing.serving.intake import Intake, RequestReader
from pipeline_processing.serving.outbox import Outbox
from pipeline_processing.serving.progress_events import ProgressEvents
from pipeline_processing.serving.serve import Parts
from pipeline_processing.serving.serve import Service as Serve
from pipeline_processing.serving.webhooks import Webhook, Webhooks, WebhookSender
from pipeline_processing.serving.worker import Worker
from pipeline_processing.telemetry.health import Health, Pulse, Servers
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.metrics import IntakeMetrics, Metrics
from pipeline_processing.telemetry.tracing import IdsOnlyTracer
from tests.memory.broker import MemoryBroker
from tests.memory.letters import MemoryLetters
from tests.memory.receivers import MemoryReceivers
from tests.unit.in_memory import CONFIG_ID, Between, Interposed, Service, interposed

WEBHOOK_KEY = b"0123456789abcdef"
REQUESTS, COMPLETIONS, PROGRESS, DEAD_LETTERS = TOPICS = ("requests", "completions", "progress", "dead-letters")


class Served:
    """
    One process of `serve`. `service` has its history and destination; `of_kafka` gets every call to the broker's
    `send`, and to `poll`, `commit` and `lag` of the group's member.
    """

    def __init__(
        self,
        *,
        drain_seconds: float = 60.0,
        concurrency: int = 4,
        may_create: bool = True,
        webhooks: Mapping[str, tuple[str, ...]] | None = None,
        tracer: Tracer | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """`webhooks` maps names to states; their URLs are https://NAME.example/."""
        metrics = metrics or Metrics()
        self.service = Service(metrics=metrics)
        self.clock = self.service.clock
        self.broker = MemoryBroker(clock=self.clock, topics=TOPICS, creates=TOPICS, may_create=may_create)
        self.of_kafka = Between()
        self.servers = Servers(clock=self.clock)
        self.kafka, self.history = self.servers.kafka, self.servers.history
        self.pulses = {name: Pulse(name, clock=self.clock) for name in ("intake", "worker", "outbox")}
        self.health = Health(pulses=list(self.pulses.values()), servers=self.servers)
        self.stop, self.hurry = asyncio.Event(), asyncio.Event()
        runs = interposed(self.service.runs, self.service.between)
        events: Any = LastingEvents(Interposed(self.broker, self.of_kafka), topics=self.broker)
        self.kept = MemoryLetters(clock=self.clock)
        kept: Any = Interposed(self.kept, self.service.between)
        self.outbox = Outbox(
            runs=runs.outbox,
            events=events,
            topic=COMPLETIONS,
            clock=self.clock,
            pulse=self.pulses["outbox"],
            servers=self.servers,
            tracer=tracer or IdsOnlyTracer(),
        )
        self.receivers = MemoryReceivers(clock=self.clock)
        self.webhooks = Webhooks(
            [
                WebhookSender(
                    Webhook(name, url=f"https://{name}.example/", key=WEBHOOK_KEY, states=states),
                    deliveries=runs.deliveries,
                    poster=self.receivers,
                    clock=self.clock,
                    history=self.history,
                    health=self.health,
                    mask=Mask(),
                    metrics=metrics,
                )
                for name, states in (webhooks or {}).items()
            ],
            deliveries=runs.deliveries,
        )
        self.worker = Worker(
            executor=self.service.first,
            concurrency=concurrency,
            drain_seconds=drain_seconds,
            pulse=self.pulses["worker"],
            history=self.history,
            breaker=Breaker(self.servers.of_runs, clock=self.clock, note=self.health.note),
            on_ended=self._ended,
            metrics=metrics,
        )
        self.intake = Intake(
            subscribe=self._subscribe,
            reader=RequestReader(config=self.service.config, config_id=CONFIG_ID, tracer=IdsOnlyTracer()),
            runs=runs.intake,
            letters=DeadLetters(
                events=events, topic=DEAD_LETTERS, store=kept, clock=self.clock, mask=Mask(), metrics=metrics
            ),
            pulse=self.pulses["intake"],
            servers=self.servers,
            on_accepted=self._accepted,
            metrics=IntakeMetrics(metrics, topic=REQUESTS),
        )
        progress = ProgressEvents(events=events, topic=PROGRESS, clock=self.clock)
        self.whole = Serve(
            parts=Parts(
                intake=self.intake,
                worker=self.worker,
                outbox=self.outbox,
                progress=progress,
                webhooks=self.webhooks,
                backlog=BacklogWatch(runs.queue, metrics),
            ),
            runs=runs,
            path=self.service.first.path,
            topics=self.broker,
            requests_topic=REQUESTS,
            servers=self.servers,
            health=self.health,
        )

    def _ended(self, run_id: str) -> None:
        self.outbox.wake()
        self.webhooks.wake()

    def _accepted(self) -> None:
        self.worker.wake()
        self.outbox.wake()

    @asynccontextmanager
    async def _subscribe(self) -> AsyncIterator[RequestStream]:
        await self.broker.ensure()
        async with self.broker.subscribe(REQUESTS) as stream:
            member: Any = Interposed(stream, self.of_kafka)
            yield member

    # -- what a test does ------------------------------------------------------------------------

    def running(self) -> AbstractAsyncContextManager[asyncio.Task[None]]:
        """All of it, for the length of the block; at its end it is told to stop, and has to."""
        return self._running(self.whole.run(self.stop, self.hurry, once=False))

    def taking(self) -> AbstractAsyncContextManager[asyncio.Task[None]]:
        """Only the intake."""
        return self._running(self.intake.run(self.stop))

    def notifying(self) -> AbstractAsyncContextManager[asyncio.Task[None]]:
        """Only the webhooks."""
        return self._running(self.webhooks.run(self.stop))

    def announcing(self) -> AbstractAsyncContextManager[asyncio.Task[None]]:
        """Only the outbox."""
        return self._running(self.outbox.run(self.stop))

    @asynccontextmanager
    async def _running(self, work: Any) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(work)
        try:
            yield task
        finally:
            self.stop.set()
            await task

    def ask(self, value: Any = None, *, headers: Headers = (), key: bytes | None = b"7", **request: Any) -> Record:
        """Somebody sends a request: these bytes, or a request of these fields."""
        body = value if isinstance(value, bytes) else orjson.dumps({"agency_id": 7, **request})
        return self.broker.put(Outgoing(topic=REQUESTS, key=key, value=body, headers=headers))

    # -- what is there ---------------------------------------------------------------------------

    async def states(self) -> dict[str, str]:
        """Run id → state."""
        return {run.run_id: run.state.value for run in await self.service.runs.history.newest()}

    def letters(self) -> list[tuple[str, bytes | None]]:
        """The dead letters: reason and value."""
        return [((r.header("dlq_reason") or b"").decode(), r.value) for r in self.broker.records(DEAD_LETTERS)]

    def completions(self, run_id: str) -> list[Record]:
        """The events of a run, as they were sent."""
        sent = self.broker.records(COMPLETIONS)
        return [record for record in sent if orjson.loads(record.value or b"{}")["run_id"] == run_id]

    async def committed(self) -> int:
        """How many messages are settled."""
        return sum((await self.broker.committed(REQUESTS)).values())
