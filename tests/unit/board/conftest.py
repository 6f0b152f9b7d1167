"""The board on a history in memory and a Kafka in memory, in virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest
from starlette.types import ASGIApp

from pipeline_processing.aio.asking import Server
from pipeline_processing.aio.clock import HistoryClock
from pipeline_processing.board.api import Api
from pipeline_processing.board.application import Probes, application
from pipeline_processing.board.figures import TopicFigures
from pipeline_processing.board.live import Live
from pipeline_processing.board.triggers import OpenWindows, TriggerList
from pipeline_processing.board.views import Views
from pipeline_processing.requests.redrive import DeadLetters
from pipeline_processing.requests.watching import LiveProgress
from pipeline_processing.runs.store import RunHistory
from pipeline_processing.settings.settings import KafkaSettings
from pipeline_processing.telemetry.health import Pulse
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.triggers.config import Triggers
from pipeline_processing.triggers.topics import app_id_of, changelog_of
from tests.memory.broker import MemoryBroker
from tests.unit.board.history import HandmadeHistory
from tests.unit.virtual_clock import VirtualClock

TRIGGERS = Triggers.model_validate(
    {
        "triggers": [
            {"name": "updated", "topic": "agencies", "agency_id": "data.id", "debounce": {"quiet_for": "10s"}},
            {"name": "nightly", "schedule": {"cron": "0 3 * * *", "agencies": [7]}, "datasets": ["records"]},
        ]
    }
)
TOKEN = "a token of the board"
NAMES = KafkaSettings()


@dataclass
class Parts:
    """The parts of a board."""

    history: HandmadeHistory
    broker: MemoryBroker
    progress: LiveProgress
    live: Live
    api: Api
    mask: Mask
    kafka: Server
    windows: OpenWindows
    _apps: dict[tuple[str, str | None], ASGIApp] = field(default_factory=dict)

    def app(self, *, host: str = "127.0.0.1", token: str | None = None) -> ASGIApp:
        """The application."""
        if (host, token) in self._apps:
            return self._apps[host, token]
        problems = Probes(not_alive=list, not_ready=lambda: ["starting"], notes=lambda: ["Kafka: away"])
        self._apps[host, token] = application(
            api=self.api, live=self.live, host=host, token=token, mask=self.mask, probes=problems
        )
        return self._apps[host, token]


@pytest.fixture
def parts() -> Parts:
    clock = HistoryClock(VirtualClock())
    history, mask = HandmadeHistory(), Mask()
    mask.know(["tops3cret"])
    topics = [NAMES.requests_topic, NAMES.progress_topic, NAMES.dead_letters_topic]
    broker = MemoryBroker(clock=VirtualClock(), topics=topics)
    kafka, database = Server("Kafka", clock=clock), Server("the history", clock=clock)
    views = Views(mask=mask, trace_url="https://traces/{trace_id}", kinds={"step_failed": "A step raised."})
    progress = LiveProgress(
        topics=broker, topic=NAMES.progress_topic, clock=clock, on_event=lambda run_id: live.tell_progress(run_id)
    )
    live = Live(
        reads=history,
        progress=progress,
        figures=TopicFigures(topics=broker, names=NAMES, server=kafka, clock=clock),
        views=views,
        clock=clock,
        history=database,
        kafka=kafka,
        pulse=Pulse("live", clock=clock),
    )
    letters = DeadLetters(topics=broker, topic=NAMES.dead_letters_topic, kept=None)
    windows = OpenWindows(topics=broker, topic=changelog_of(app_id_of(NAMES)), server=kafka)
    triggers = TriggerList(TRIGGERS.triggers, windows=windows)
    api = Api(
        reads=history,
        history=cast("RunHistory", history),
        live=live,
        letters=letters,
        triggers=triggers,
        views=views,
        clock=clock,
    )
    return Parts(history, broker, progress, live, api, mask, kafka, windows)
