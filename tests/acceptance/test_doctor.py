"""`doctor` on real servers: green where nothing is missing, and nothing is left behind."""

from __future__ import annotations

import json
import re
from subprocess import CompletedProcess
from typing import Any

import pytest

from pipeline_processing.cli.main import main
from tests.acceptance.kafka_side import Messages
from tests.acceptance.service import SMALL, Service


def findings(done: CompletedProcess[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """By the server's first word, and the check."""
    lines = map(json.loads, done.stdout.splitlines())
    return {(each["server"].split()[0].split(":")[0], each["check"]): each for each in lines}


def test_healthy_servers_are_green(service: Service, messages: Messages) -> None:
    """All of them at once, in seconds; and nothing of it can be seen afterwards."""
    assert service.run(SMALL, "--run-id", "finished").returncode == 0
    before = service.everything()

    done = service.cli("doctor", "--json")

    found = findings(done)
    assert done.returncode == 0, [each for each in found.values() if each["exit_code"]]
    assert {each["state"] for each in found.values()} <= {"ok", "advice"}, found
    advised = {check for (_, check), each in found.items() if each["state"] == "advice"}
    assert advised == {"topic policies", "durability", "lifecycle"}
    assert len(found) > 30
    assert {check for server, check in found if server == "s3"} >= {"conditional put", "multipart", "lifecycle"}
    assert service.everything() == before
    assert not service.pending_uploads()


def test_servers_that_are_away_are_named(service: Service) -> None:
    """Each with what it costs; a Kafka that nobody has set isn't missed. The gravest finding decides."""
    away = {
        "PIPELINE_S3__ENDPOINT_URL": "http://127.0.0.1:1",
        "PIPELINE_KAFKA__BOOTSTRAP_SERVERS": None,
        "PIPELINE_HISTORY__SCHEMA": "elsewhere",
    }
    done = service.cli("doctor", env=away)
    assert done.returncode == 78
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if line.endswith(": missing")] == [
        "history",
        f"s3://{service.bucket}/agencies:",
    ]
    assert any(line.startswith("  costs   no run can be published") for line in lines)
    assert any(line.startswith("  remedy  Run `pipeline-processing migrate`.") for line in lines)
    assert re.search(r"^Kafka at localhost:9092 +connects +skipped ", done.stdout, re.MULTILINE)


def test_a_group_that_there_is_not(capfd: pytest.CaptureFixture[str]) -> None:
    """64, with those that there are."""
    assert main(["doctor", "--only", "cellar"]) == 64
    assert "kafka, source, history, destinations, others" in capfd.readouterr().err


def test_what_can_not_even_be_opened_hides_nothing(service: Service) -> None:
    """A certificate that isn't there, a secret that isn't set: told beside the findings about all other servers."""
    wrong = {
        "PIPELINE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "PIPELINE_KAFKA__SECURITY_PROTOCOL": "SSL",
        "PIPELINE_KAFKA__CA_FILE": "/nowhere/ca.crt",
        "PIPELINE_DESTINATION": None,
        "PIPELINE_JOB_CONFIG_FILE": None,
    }
    done = service.cli("doctor", "--json", env=wrong)
    found = findings(done)
    assert done.returncode == 78
    assert "/nowhere/ca.crt" in found["kafka", "opens"]["detail"]
    assert found["destinations", "opens"]["state"] == "skipped"
    assert found["history", "schema version"]["state"] == "ok"
