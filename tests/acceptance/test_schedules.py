"""Runs by the clock: a schedule of `triggers`, its agencies read from the source database."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from tests.acceptance.kafka_side import Message, Messages
from tests.acceptance.service import Service, eventually
from tests.acceptance.serving import Serving
from tests.acceptance.warm import Forked

AGENCIES = "SELECT DISTINCT agency_id FROM records WHERE agency_id < 4 ORDER BY agency_id"


def triggers_file(folder: Path, *others: dict[str, Any]) -> Path:
    minutely = {
        "name": "minutely",
        "schedule": {"cron": "* * * * *", "agencies": {"query": AGENCIES}},
        "labels": {"by": "the clock"},
    }
    path = folder / "triggers.yaml"
    path.write_text(yaml.safe_dump({"triggers": [minutely, *others]}))
    return path


def start(service: Service, file: Path) -> Serving:
    env = {"PIPELINE_HTTP__PORT": "0", "PIPELINE_TRIGGERS_FILE": str(file)}
    process = service._start(["-m", "pipeline_processing.cli.main", "triggers"], env, warm=True)
    assert isinstance(process, Forked)
    return Serving(process)


def test_a_process_that_takes_over_asks_for_no_tick_again(service: Service, messages: Messages) -> None:
    """It looks for what the killed one may have missed, but the log knows what was asked for."""
    file = triggers_file(service.folder)

    def asked() -> Counter[tuple[str, int]]:
        found: list[Message] = messages.all_of(messages.requests_topic)
        return Counter((str(each.json["run_id"]).rpartition("-")[2], each.json["agency_id"]) for each in found)

    first = start(service, file)
    first.wait_until_said("asking for the runs of a tick")
    eventually(lambda: len(asked()) >= 3, 60)
    first.kill()
    second = start(service, file)
    second.wait_until_said("asking for the runs of a tick")
    eventually(lambda: len(messages.all_of(f"{messages.group}-triggers-entries")) >= 6, 60)
    second.stop()
    assert set(asked().values()) == {1}
    assert {agency for _, agency in asked()} == {1, 2, 3}
    assert messages.all_of(messages.requests_topic)[0].json["labels"] == {"by": "the clock"}


def test_servers_are_checked_with_connect(service: Service, messages: Messages) -> None:
    """A topic that is missing, and how many agencies a query returns."""
    file = triggers_file(service.folder, {"topic": f"{messages.group}.missing", "agency_id": "key"})
    checked = service.cli("triggers", "check", file, "--connect")
    assert checked.returncode == 78
    assert "agencies  ok  minutely: the query returns 3 agencies" in checked.stdout
    assert f"Kafka has no topic {messages.group}.missing" in checked.stderr
