"""`topics` on a real Kafka: where services may create none, an administrator does, and sees what doesn't fit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import NewTopic

from pipeline_processing.cli.main import main
from pipeline_processing.embedded.kafka import KafkaServer
from tests.acceptance.kafka_side import Messages

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def messages(kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Messages]:
    """Names of topics that don't exist yet, with triggers."""
    triggers = tmp_path / "triggers.yaml"
    triggers.write_text("triggers: [{topic: events, agency_id: data.agency_id}]")
    with Messages(kafka.bootstrap_servers, create=False) as opened:
        for name, value in opened.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PIPELINE_TRIGGERS_FILE", str(triggers))
        monkeypatch.setenv("PIPELINE_KAFKA__CREATE_TOPICS", "false")
        yield opened


@pytest.fixture
def topics(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `topics` with these arguments; exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["topics", *arguments])
        return code, *capfd.readouterr()

    return run


def test_missing_topics_are_created_once(messages: Messages, topics: Run) -> None:
    """Only with --execute, also with PIPELINE_KAFKA__CREATE_TOPICS=false; a second time there is nothing to do."""
    code, out, err = topics()
    states = [line.split()[-6] for line in out.splitlines()[1:]]
    assert (code, states) == (78, ["missing"] * 6)
    assert "The same command with --execute creates them." in err
    assert not set(messages.topics) & set(messages.admin.list_topics().topics)

    code, out, err = topics("--execute")
    assert (code, err) == (0, "")
    assert out.count(" created ") == 6

    for arguments in ([], ["--execute"]):
        code, out, err = topics(*arguments, "--json")
        found = {each["topic"]: each for each in map(json.loads, out.splitlines())}
        assert (code, err) == (0, "")
        assert {each["state"] for each in found.values()} == {"ok"}
    day = 24 * 60 * 60 * 1000
    assert found[messages.requests_topic] == {
        "topic": messages.requests_topic,
        "content": "requests",
        "state": "ok",
        "partitions": 3,
        "replicas": 1,
        "cleanup_policy": "delete",
        "retention_ms": 7 * day,
        "max_message_bytes": 1_048_588,
        "deviations": [],
    }
    assert found[messages.progress_topic]["retention_ms"] == day
    assert found[messages.dead_letters_topic]["max_message_bytes"] == 1_048_588 + 2 * 1024 * 1024
    assert found[f"{messages.group}-triggers-windows-changelog"]["cleanup_policy"] == "compact"


def test_a_topic_that_loses_messages_is_named(messages: Messages, topics: Run) -> None:
    """With what it costs, and the command that corrects it. It isn't changed."""
    compacted = NewTopic(messages.completions_topic, 2, 1, config={"cleanup.policy": "compact"})
    entries, windows = (f"{messages.group}-triggers-{name}" for name in ("entries", "windows-changelog"))
    for created in messages.admin.create_topics([compacted, NewTopic(entries, 2, 1)]).values():
        created.result(20)
    for state in ("created", "ok"):
        code, out, err = topics("--execute")
        assert code == 78
        assert out.count(" unfit ") == 1
        # As many partitions as the topic that it belongs to, not as the setting says.
        assert re.search(rf"^{windows} +windows +{state} +2 ", out, re.MULTILINE)
        assert "cleanup.policy is compact, not delete: of an agency's completion events, all but the last" in err
        assert f"--entity-name {messages.completions_topic} --add-config cleanup.policy=delete`" in err


def test_brokers_that_do_not_answer(monkeypatch: pytest.MonkeyPatch, topics: Run) -> None:
    """69, and which."""
    monkeypatch.setenv("PIPELINE_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    code, _, err = topics()
    assert code == 69
    assert "127.0.0.1:1" in err
