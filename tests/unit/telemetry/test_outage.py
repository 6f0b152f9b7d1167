"""Outages are said once, whoever meets them."""

from typing import Any

import structlog

from pipeline_processing.errors import KafkaUnavailable
from pipeline_processing.telemetry.outage import Outage


def said(log: list[Any]) -> list[str]:
    return [f"{line['log_level']}: {line['event']}" for line in log]


def test_an_outage_is_said_once_when_it_begins_and_once_when_it_ends() -> None:
    """However often its users try, and however many they are."""
    outage = Outage("Kafka")

    with structlog.testing.capture_logs() as log:
        for _ in range(3):
            outage.began(KafkaUnavailable("no route"), by="intake")
            outage.began(KafkaUnavailable("no route"), by="outbox")
        outage.ended(by="intake")
        assert outage.problem == "no route"
        outage.ended(by="outbox")

    assert said(log) == ["warning: Kafka can't be used; trying again until it can", "info: Kafka is back"]
    assert outage.problem is None


def test_what_was_never_away_is_not_back() -> None:
    """An answer is no news while all is well."""
    outage = Outage("Kafka")

    with structlog.testing.capture_logs() as log:
        outage.ended(by="intake")

    assert log == []
