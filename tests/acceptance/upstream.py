"""An upstream service, processes of `triggers` that watch its topic, and what they ask for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from confluent_kafka import KafkaException
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # it is documented there

import pipeline_processing.triggers.faust_app  # noqa: F401 - imported for the forked processes; see warm.py
from tests.acceptance.kafka_side import Message, Messages
from tests.acceptance.serving import Serving
from tests.acceptance.warm import Forked
from tests.watching import eventually

TRACEPARENT = f"00-{'ab' * 16}-{'cd' * 8}-01"


class Upstream:
    """A topic of events, and the processes that watch it. `messages` has all other topics."""

    def __init__(
        self, messages: Messages, *, environment: Mapping[str, str], folder: Path, debounce: Mapping[str, str] | None
    ) -> None:
        self.messages = messages
        self.topic = f"{messages.group}.events"
        self.entries_topic = f"{messages.group}-triggers-entries"
        self.changelog_topic = f"{messages.group}-triggers-windows-changelog"
        self.folder = folder
        self.environment = {**environment, **messages.environment, "PIPELINE_HTTP__PORT": "0"}
        self.environment["PIPELINE_TRIGGERS_FILE"] = str(self.file("triggers.yaml", debounce=debounce))
        self.processes: list[Serving] = []
        self._sent = 0

    def create(self, *, partitions: int = 4, config: Mapping[str, str] | None = None) -> None:
        """Create the topic of events."""
        topic = NewTopic(self.topic, partitions, 1, config=dict(config or {}))
        for created in self.messages.admin.create_topics([topic]).values():
            created.result(20)

    def delete(self, topic: str) -> None:
        """Delete a topic."""
        for deleted in self.messages.admin.delete_topics([topic]).values():
            deleted.result(20)

    def file(self, name: str, *, debounce: Mapping[str, str] | None, **more: Any) -> Path:
        """Write a triggers file."""
        trigger = {"name": "updated", "topic": self.topic, "agency_id": "data.agency_id", "debounce": debounce, **more}
        path = self.folder / name
        path.write_text(yaml.safe_dump({"triggers": [trigger]}))
        return path

    def start(self, **env: str) -> Serving:
        """Start a process of `triggers`."""
        command = ["-m", "pipeline_processing.cli.main", "triggers"]
        process = Serving(Forked(command, env={**self.environment, **env}, folder=self.folder))
        self.processes.append(process)
        return process

    def close(self) -> None:
        """End all processes."""
        for process in self.processes:
            process.process.kill()
            process.process.communicate(timeout=20)

    def happen(self, agencies: Iterable[int], *, times: int = 1) -> None:
        """Send events of these agencies, in turn, to all partitions."""
        values = [{"agency_id": agency_id} for _ in range(times) for agency_id in agencies]
        self._sent += 1
        headers = {
            "ce_specversion": "1.0",
            "ce_id": str(self._sent),
            "ce_source": "/crm",
            "ce_type": "agency.updated",
            "traceparent": TRACEPARENT,
        }
        self.messages.send(*values, headers=headers, topic=self.topic)

    def requests(self) -> list[Message]:
        """Return all requests so far."""
        return self._all(self.messages.requests_topic)

    def runs(self) -> Counter[int]:
        """Return how many runs each agency was asked for. A request that was sent again makes no second run."""
        run_ids: dict[str, tuple[int, Any]] = {}
        for message in self.requests():
            asked = message.json
            before = run_ids.setdefault(asked["run_id"], (asked["agency_id"], asked))
            assert before == (asked["agency_id"], asked), "one run id, two requests"
        return Counter(agency_id for agency_id, _ in run_ids.values())

    def wait_for_runs(self, agencies: int, *, seconds: float = 60.0) -> Counter[int]:
        """Wait until so many agencies have runs, and no window is open; return the runs per agency."""
        eventually(lambda: len(self.runs()) >= agencies and not self.open_windows(), seconds)
        return self.runs()

    def states(self) -> dict[bytes, Any]:
        """Return the agencies' last states in the changelog."""
        messages = self._all(self.changelog_topic)
        return {message.key or b"": message.json for message in messages if message.key != b"complete"}

    def open_windows(self) -> int:
        """Return how many windows are open."""
        triggers = [trigger for state in self.states().values() for trigger in state["triggers"].values()]
        return sum(trigger["window"] is not None for trigger in triggers)

    def wait_until_seen(self, agencies: int, *, seconds: float = 60.0) -> None:
        """Wait until so many agencies have states."""
        eventually(lambda: len(self.states()) >= agencies, seconds)

    def _all(self, topic: str) -> list[Message]:
        try:
            return self.messages.all_of(topic)
        except (KafkaException, KeyError):
            return []


def body(process: Serving) -> str:
    """Return the body of `/readyz`."""
    return json.dumps(process.ask("/readyz"))
