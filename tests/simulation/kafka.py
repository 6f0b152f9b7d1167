"""The part of Kafka that a simulation needs: it redelivers requests, and loses acks of stored messages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from pipeline_processing.errors import ConflictingRequest, KafkaUnavailable
from pipeline_processing.model import JobRequest, Run
from pipeline_processing.runs.completions import OutboxEvent, RunCompletion
from pipeline_processing.runs.store import Incoming

if TYPE_CHECKING:
    from tests.simulation.world import World


@dataclass(frozen=True, slots=True)
class Stored:
    """An event in the completions topic, and the time at which its sending began."""

    begun: int
    event: OutboxEvent


class Kafka:
    """The requests topic, whose messages may be redelivered at any time, and the completions topic."""

    def __init__(self, world: World) -> None:
        self.completions: list[Stored] = []
        self.refused = 0
        """The number of failed sends."""
        self._world = world
        self._choose = world.choose
        self._moments = count()
        self.asked_again: dict[str, int] = {}
        """The time of the last message that requested a finished run again."""

    # -- requests --------------------------------------------------------------------------------

    async def deliver(self, requests: Sequence[Incoming]) -> None:
        """Accept messages as an intake does; known runs must not change."""
        before = {run_id: record.run for run_id, record in self._world.table.records.items()}
        answers = await self._world.runs.intake.accept_all(requests)
        for incoming, answer in zip(requests, answers, strict=True):
            self._world.note("intake", f"{incoming.run_id}: {getattr(answer, 'state', answer)}")
            run = self._world.table.records[incoming.run_id].run
            assert run == before.setdefault(incoming.run_id, run), f"a message has changed {run}"
            if run.request != incoming.request:
                assert isinstance(answer, ConflictingRequest)
                continue
            assert answer == run
            if run.state.finished and incoming.origin is not None:
                self.asked_again[run.run_id] = next(self._moments)

    async def redeliver(self, requests: Sequence[Incoming]) -> None:
        """Redeliver some of these now and then, and different requests with the same ids."""
        while True:
            await asyncio.sleep(self._choose.uniform(0, 4))
            if self._world.is_quiet or self._world.over:
                return
            some = [self._choose.choice(requests) for _ in range(self._choose.choice((1, 1, 3)))]
            if self._choose.random() < 0.2:
                some.insert(self._choose.choice((0, 1)), replace(some[0], request=JobRequest(agency_id=99)))
            await self.deliver(some)

    # -- completions -----------------------------------------------------------------------------

    async def announce(self) -> None:
        """Send the outbox, as a worker does all the time. Now and then it is killed while it does."""
        while not self._world.over:
            await asyncio.sleep(self._choose.uniform(0, 2))
            lives = 0.5 if self._happens(self._world.chances.killed * 5) else 60.0
            try:
                async with asyncio.timeout(lives):
                    await self._world.runs.outbox.announce(self._send, limit=self._choose.choice((1, 2, 100)))
            except (KafkaUnavailable, TimeoutError):
                self.refused += 1

    async def _send(self, events: Sequence[OutboxEvent]) -> None:
        begun, world = next(self._moments), self._world
        stored = list(events)
        if self._happens(world.chances.refused):
            stored = stored[: self._choose.randrange(len(stored))]
        for event in stored:
            await self._a_while()
            world.note("kafka", f"stores {event.event_id}")
            self.completions.append(Stored(begun, event))
        await self._a_while()
        if len(stored) < len(events) or self._happens(world.chances.lost):
            world.note("kafka", "gives no ack")
            raise KafkaUnavailable("no ack")

    async def _a_while(self) -> None:
        if self._world.pace and not self._world.is_quiet:
            await asyncio.sleep(self._choose.uniform(0, self._world.pace))

    def _happens(self, chance: float) -> bool:
        return chance > 0 and not self._world.is_quiet and self._choose.random() < chance

    # -- the end ---------------------------------------------------------------------------------

    def told(self, run: Run) -> None:
        """Check that a finished run was announced, always by equal events, and again after each repeated request."""
        copies = [stored for stored in self.completions if stored.event.run_id == run.run_id]
        assert copies, f"{run.run_id} was never announced"
        assert all(copy.event == copies[0].event for copy in copies), f"{run.run_id} was announced by different events"
        assert RunCompletion.model_validate_json(copies[0].event.value) == RunCompletion.of(run)
        asked = self.asked_again.get(run.run_id)
        assert asked is None or copies[-1].begun > asked, f"{run.run_id} was requested again, but not announced"
