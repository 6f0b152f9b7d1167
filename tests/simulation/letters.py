"""
Real intakes take valid and invalid requests. Every invalid one becomes a dead letter with the same bytes: in Kafka or,
if that refuses it for good, in the database. The valid ones are accepted in any case.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from pipeline_processing.errors import AccessDenied, HistoryUnavailable, KafkaUnavailable, PipelineError
from pipeline_processing.messaging.dead_letters import DeadLetter
from pipeline_processing.messaging.port import Outgoing, Record, RequestStream
from pipeline_processing.requests.dead_letters import DeadLetters
from pipeline_processing.runs.store import Incoming
from pipeline_processing.serving.intake import Intake, RequestReader
from pipeline_processing.telemetry.health import Pulse, Servers
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.telemetry.tracing import IdsOnlyTracer
from tests.memory.broker import MemoryBroker
from tests.memory.letters import MemoryLetters
from tests.unit.in_memory import Call, Interposed, interposed, job

if TYPE_CHECKING:
    from tests.simulation.world import World

REQUESTS, DEAD_LETTERS = "requests", "dead-letters"


class Letters:
    """Two intakes that are killed and restarted, a broker that refuses some letters, and the database for those."""

    def __init__(self, world: World, *, datasets: Sequence[str], config_id: str) -> None:
        self._world = world
        self._choose = random.Random(f"letters {world.seed}")
        self._config = job(*datasets)
        self._config_id = config_id
        self._broker = MemoryBroker(clock=world.clock, topics=[REQUESTS, DEAD_LETTERS], partitions=2)
        self._broker.refuses = lambda message: message.topic == DEAD_LETTERS and b"never" in (message.value or b"")
        self._kept = MemoryLetters(clock=world.clock)
        self._bad: list[Record] = []
        self._all_sent = False
        self.refused = 0
        """The number of requests whose letters the broker refuses."""

    # -- what happens ----------------------------------------------------------------------------

    async def happen(self, requests: Sequence[Incoming]) -> None:
        """Run until the world ends."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._produce(requests))
            for number in range(2):
                group.create_task(self._keep_alive(f"i{number}"))

    async def _produce(self, requests: Sequence[Incoming]) -> None:
        """Send malformed requests, and valid ones that request existing runs again."""
        for number in range(self._choose.randrange(12)):
            await asyncio.sleep(self._choose.uniform(0, 4))
            key = self._choose.choice((None, b"7", b"8"))
            if self._choose.random() < 0.3:
                asked = self._choose.choice(requests)
                value = asked.request.model_copy(update={"run_id": asked.run_id}).model_dump_json().encode()
                self._broker.put(Outgoing(REQUESTS, key, value))
            else:
                never = self._choose.random() < 0.4
                self.refused += never
                self._bad.append(self._broker.put(Outgoing(REQUESTS, key, b"{%d %b" % (number, b"never" * never))))
        self._all_sent = True

    async def _keep_alive(self, name: str) -> None:
        """Run an intake, and replace it when it was killed or has given up."""
        while not self._world.over:
            stop = asyncio.Event()
            intake = asyncio.create_task(self._intake(name).run(stop))
            await asyncio.wait([intake], timeout=self._choose.uniform(0, 6) if not self._world.is_quiet else 5)
            if not self._world.is_quiet and self._choose.random() < 0.5:
                self._world.note(name, "is killed")
                intake.cancel()
            stop.set()
            with suppress(asyncio.CancelledError, PipelineError):
                await intake

    def _intake(self, name: str) -> Intake:
        clock: Any = self._world.clock
        events: Any = Interposed(self._broker, self._around)
        runs = interposed(self._world.runs, self._around)
        kept: Any = Interposed(self._kept, self._around)

        @asynccontextmanager
        async def subscribe() -> AsyncIterator[RequestStream]:
            async with self._broker.subscribe(REQUESTS) as stream:
                member: Any = Interposed(stream, self._around)
                yield member

        return Intake(
            subscribe=subscribe,
            reader=RequestReader(config=self._config, config_id=self._config_id, tracer=IdsOnlyTracer()),
            runs=runs.intake,
            letters=DeadLetters(events=events, topic=DEAD_LETTERS, store=kept, clock=clock, mask=Mask()),
            pulse=Pulse(name, clock=clock),
            servers=Servers(clock=clock),
            on_accepted=lambda: None,
        )

    async def _around(self, method: str, call: Call) -> Any:
        """Make a call of an intake, which may be refused, take a while, or lose its reply."""
        if self._world.is_quiet:
            return await call()
        away = HistoryUnavailable if method in ("accept_all", "keep") else KafkaUnavailable
        if self._happens(self._world.chances.refused):
            raise (AccessDenied if method == "send" and self._happens(0.3) else away)(f"{method} is refused")
        await asyncio.sleep(self._choose.choice((0.0, self._choose.uniform(0, self._world.pace))))
        answer = await call()
        if self._happens(self._world.chances.lost):
            raise away(f"the reply to {method} is lost")
        if self._happens(0.05):
            self._broker.rebalance()
        return answer

    def _happens(self, chance: float) -> bool:
        return self._choose.random() < chance

    # -- the end ---------------------------------------------------------------------------------

    async def settled(self) -> bool:
        """Whether every message is committed."""
        return self._all_sent and await self._broker.ends(REQUESTS) == await self._broker.committed(REQUESTS)

    async def all_put_aside(self) -> None:
        """Check that every malformed request has a dead letter, and no other request has one."""
        sent = [DeadLetter.of(record) for record in self._broker.records(DEAD_LETTERS)]
        kept = [DeadLetter.of(record) async for record in self._kept.kept()]
        in_kafka = {letter.original(timestamp_ms=0) for letter in sent if letter is not None}
        in_database = [letter.original(timestamp_ms=0) for letter in kept if letter is not None]
        assert in_kafka | set(in_database) == set(self._bad)
        assert len(in_database) == len(set(in_database)), in_database
        for record in self._bad:
            if b"never" in (record.value or b""):
                assert record not in in_kafka
