"""
Promise 7: no secret in a log, an event, a dead letter, the history, a span or an error, whoever says it.

What the mask finds is told in `tests/unit/test_masking.py`; here all that leaves the processes is looked at.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.acceptance.kafka_side import Message, Messages
from tests.acceptance.leaking_steps import forms
from tests.acceptance.running_api import running_api
from tests.acceptance.service import OTHER, SMALL, Service, completion, finished, one_dataset
from tests.otlp_receiver import OtlpReceiver, otlp_receiver
from tests.upstream_api import Raw, Reply

PASSWORD = "p@ss/w\"rd's é%\\ of the database"
TOKEN = "t0ken-of-the-api"
PIN = "kz7"
"""A short one."""
SECRETS = (PASSWORD, TOKEN, PIN)

QUERY = "SELECT id, name FROM records WHERE agency_id = $1 ORDER BY id"


@pytest.fixture
def collector() -> Iterator[OtlpReceiver]:
    with otlp_receiver() as received:
        yield received


def give_secrets(service: Service, collector: OtlpReceiver) -> None:
    """Secrets in its settings, and the collector for its spans."""
    dsn = urlsplit(service.environment["PIPELINE_SOURCE__DSN"])
    netloc = f"{dsn.username}:{quote(PASSWORD, safe='')}@{dsn.hostname}:{dsn.port}"
    service.environment |= {
        "PIPELINE_SOURCE__DSN": dsn._replace(netloc=netloc).geturl(),
        "PIPELINE_SECRETS__API_TOKEN": TOKEN,
        "PIPELINE_SECRETS__PIN": PIN,
        "LEAKED": json.dumps(SECRETS),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
    }


def assert_clean(channel: str, text: str) -> None:
    """No secret stands there in any form, and something was masked."""
    for secret in SECRETS:
        for form in forms(secret):
            alone = rf"(?<!\w){re.escape(form)}(?!\w)" if len(secret) < 8 else re.escape(form)
            assert (found := re.search(alone, text)) is None, (channel, text[found.start() - 200 : found.end() + 99])
    assert "***" in text, channel


def words_of(message: Message) -> str:
    """All that the service has said in a message. The value of a dead letter is the request as it came."""
    value = None if message.header("dlq_reason") else message.value
    return f"{value!r} {[(name, text) for name, text in message.headers if name != 'x']}"


def test_what_a_step_says_stays_inside(service: Service, messages: Messages, collector: OtlpReceiver) -> None:
    """Logs, events, dead letters, the history and spans of `serve`."""
    give_secrets(service, collector)
    job = one_dataset(QUERY, steps=[{"python": "leaking_steps:says_all"}])
    serve = service.serve("--config", service.job_config(job))
    messages.send({"agency_id": SMALL, "run_id": "leak"})
    (event,) = messages.wait_for_completions(1)
    letter = messages.wait_for_dead_letter(messages.send({"agency_id": SMALL, f"{TOKEN} {PIN}": 1})[0])
    serve.signal(signal.SIGTERM)
    done = finished(serve.process)

    assert event.json["error"]["kind"] == "step_failed"
    assert letter.header("dlq_reason") == "invalid_request"
    assert_clean("event", words_of(event))
    assert_clean("dead letter", words_of(letter))
    assert_clean("history", str(service.tables()))
    assert_clean("history, in full", service.cli("history", "--run-id", "leak").stdout)
    assert (done.returncode, done.stdout) == (0, "")
    assert all(said in done.stderr for said in ("about ***", "mine.***", "Exception in thread"))
    assert_clean("log", done.stderr)
    assert "said ***" in collector.text
    assert_clean("spans", collector.text)


def test_what_a_step_says_stays_inside_a_command(service: Service, collector: OtlpReceiver) -> None:
    """Output, reasons of rejected rows and spans of `run`, dry or not."""
    failing = one_dataset(QUERY, steps=[{"python": "leaking_steps:says_all"}])
    rejecting = one_dataset(QUERY, steps=[{"python": "leaking_steps:rejects"}], on_row_error="quarantine")
    give_secrets(service, collector)
    for options in ((), ("--dry-run",)):
        done = service.run(SMALL, "--config", service.job_config(failing), *options)
        assert completion(done)["error"]["kind"] == "step_failed"
        assert_clean("stdout", done.stdout)
        assert_clean("stderr", done.stderr)
    assert_clean("spans", collector.text)

    done = service.run(OTHER, "--config", service.job_config(rejecting), "--run-id", "rejected")
    assert completion(done)["rows_rejected"] == 12
    (rejected,) = service.objects(f"agencies/agency_id={OTHER}/run_id=rejected/_rejected").values()
    assert_clean("rejected rows", rejected.body.decode())


ECHOES = {
    "a redirect to a token in a query": Reply(status=302, headers={"Location": f"/files/x?token={TOKEN}"}),
    "a redirect to a token in a path": Reply(status=302, headers={"Location": "/files/0therS3cret"}),
    "a redirect with a user": Reply(status=302, headers={"Location": "http://me:0therS3cret@127.0.0.1/"}),
    "a header that isn't one": Raw(f"HTTP/1.1 200 OK\r\nX Echo: Bearer {TOKEN} 0therS3cret\r\n\r\n".encode()),
    "a header with a wrong character": Raw(f"HTTP/1.1 200 OK\r\nX-Echo: 0therS3cret {TOKEN}\x00\r\n\r\n".encode()),
    "no HTTP": Raw(f"Bearer {TOKEN} 0therS3cret\r\n\r\n".encode()),
}


def test_what_an_api_says_stays_inside(service: Service, collector: OtlpReceiver) -> None:
    """Redirects to secrets, and answers that repeat the header they got: also secrets that only the API knows."""
    give_secrets(service, collector)
    with running_api() as api:
        for number, reply in enumerate(ECHOES.values()):
            api.on(f"/{number}", reply)
            source = {
                "url": api.url(f"/{number}"),
                "auth": {"bearer": "api_token"},
                "columns": {"id": "integer"},
                "max_retries": 0,
            }
            job = {
                "job": "agency_data_job",
                "datasets": [{"name": "records", "source": {"http": source}, "shared": True}],
            }
            done = service.run(SMALL, "--dry-run", "--config", service.job_config(job), env=ONE_TRY)
            assert done.returncode in (1, 69), (reply, done.stderr)
            for channel in (done.stdout, done.stderr, collector.text):
                assert TOKEN not in channel
                assert "0therS3cret" not in channel
        assert collector.text


ONE_TRY: dict[str, Any] = {"PIPELINE_WORKER__MAX_ATTEMPTS": "1"}
