"""
Promise 7: no secret in a log, an event, a dead letter, the history, a span or an error, whoever says it.

What the mask finds is told in `tests/unit/telemetry/test_masking.py`; here all that leaves the processes is looked at.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

import pytest

from pipeline_processing.board.api import ENDPOINTS
from pipeline_processing.settings.keys import ALL_SETTINGS, variable_of
from tests.acceptance.board_side import start_board
from tests.acceptance.kafka_side import Message, Messages
from tests.acceptance.leaking_steps import forms
from tests.acceptance.running_api import running_api
from tests.acceptance.service import OTHER, SMALL, Service, completion, finished, one_dataset
from tests.acceptance.serving import Serving
from tests.otlp_receiver import OtlpReceiver, otlp_receiver
from tests.upstream_api import Raw, Reply
from tests.watching import eventually

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


def planted(folder: Path) -> tuple[dict[str, str], list[str]]:
    """
    Return the environment with a secret in every place that takes one, directly, in a file or in the settings file; and
    these secrets. Few of them are of use here, but all are known to the service.
    """
    secrets = {
        **{variable_of(key.path): f"planted-{number}-s3cret" for number, key in enumerate(SECRET_SETTINGS)},
        **{variable: f"planted-{variable.lower()}" for variable in ("PGPASSWORD", "AWS_SESSION_TOKEN")},
        "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "planted-for-the-collector",
    }
    nowhere = "http://127.0.0.1:1/hooks"
    written = {
        **secrets,
        "PIPELINE_WEBHOOKS__…__URL": f"{nowhere}/{secrets['PIPELINE_WEBHOOKS__…__URL']}",
        "OTEL_EXPORTER_OTLP_METRICS_HEADERS": f"x-key={secrets['OTEL_EXPORTER_OTLP_METRICS_HEADERS']}",
    }
    environment = {
        "PIPELINE_SETTINGS_FILE": str(folder / "settings.yaml"),
        "PIPELINE_KAFKA__USERNAME": "app",
        "OTEL_METRICS_EXPORTER": "none",
        "LEAKED": json.dumps(list(secrets.values())),
    }
    (folder / "settings.yaml").write_text(f"secrets: {{in_yaml: {written.pop('PIPELINE_SECRETS__…')}}}\n")
    for number, (variable, value) in enumerate(written.items()):
        name = variable.replace("…", "BILLING")
        if variable.startswith("PIPELINE_") and number % 2:
            (folder / name).write_text(value)
            environment[f"{name}_FILE"] = str(folder / name)
        else:
            environment[name] = value
    return environment, list(secrets.values())


SECRET_SETTINGS = [key for key in ALL_SETTINGS if key.secret]


def test_every_secret_is_masked_in_every_output(service: Service, messages: Messages, collector: OtlpReceiver) -> None:
    """Whatever the settings may hold, though a step shouts it, a request contains it and a webhook fails."""
    service.to_folder()
    environment, secrets = planted(service.folder)
    source = urlsplit(service.environment["PIPELINE_SOURCE__DSN"])
    for variable in ("PIPELINE_SOURCE__DSN", "PIPELINE_HISTORY__DSN"):
        # Its password is the planted secret, which this Postgres doesn't ask for.
        given = environment.pop(variable, None) or Path(environment.pop(f"{variable}_FILE")).read_text()
        netloc = f"{source.username}:{given}@{source.hostname}:{source.port}"
        environment[variable] = source._replace(netloc=netloc).geturl()
    kept = {name: value for name, value in service.environment.items() if f"{name}_FILE" not in environment}
    service.environment = kept | environment | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}

    serve = service.serve(
        "--config", service.job_config(one_dataset(QUERY, steps=[{"python": "leaking_steps:says_all"}]))
    )
    serve.wait_until_taking()
    messages.send({"agency_id": SMALL, "run_id": "leak"})
    (event,) = messages.wait_for_completions(1)
    letter = messages.wait_for_dead_letter(messages.send({"agency_id": SMALL, " ".join(secrets): 1})[0])
    eventually(lambda: service.sql("SELECT FROM pipeline.webhook_deliveries WHERE last_error IS NOT NULL"))
    (address, *_) = serve.wait_until_said("answering /livez and /readyz")["addresses"]
    told = {
        "event": words_of(event),
        "dead letter": words_of(letter),
        "tables": str(service.tables()),
        **{path: page(f"http://{address}{path}") for path in ("/metrics", "/livez", "/readyz")},
        "arguments": "\n".join(arguments_of(serve.pid)),
        **{command: service.cli(*command.split()).stdout for command in COMMANDS},
        **board_of(
            service,
            token=environment.get("PIPELINE_BOARD__TOKEN") or (service.folder / "PIPELINE_BOARD__TOKEN").read_text(),
        ),
        "log": ended(serve),
        "spans": collector.text,
    }
    for channel, text in told.items():
        assert text, channel
        for secret in secrets:
            for form in forms(secret):
                assert form not in text, (channel, form)
    for channel in ("event", "dead letter", "tables", "log", "spans", "config show"):
        assert "***" in told[channel], told[channel]


COMMANDS = ("config show", "config show --json", "history", "history --run-id leak --json", "dead-letters list")


def arguments_of(pid: int) -> list[str]:
    """Return the command lines of a process and its children, which every user of the machine can read."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [Path(f"/proc/{each}/cmdline").read_text().replace("\0", " ") for each in (pid, *children)]


def board_of(service: Service, *, token: str) -> dict[str, str]:
    """Return the board's pages and all answers of its API, and its log."""
    board, address = start_board(service)
    paths = ["/", "/login", "/runs/leak", f"/agencies/{SMALL}", "/readyz"]
    paths += [f"/api/v1{each.path.format(run_id='leak', agency_id=SMALL)}" for each in ENDPOINTS]
    answers = {}
    for path in paths:
        answers[f"board {path}"] = page(f"{address.rstrip('/')}{path}", token=token)
    return {**answers, "board's log": ended(board)}


def page(url: str, *, token: str = "") -> str:
    try:
        with urlopen(Request(url, headers={"Authorization": f"Bearer {token}"}), timeout=10) as answer:
            return str(answer.read().decode())
    except HTTPError as error:
        with error:  # not ready, say: its words count
            return error.read().decode()


def ended(process: Serving) -> str:
    """Stop it, and return its log."""
    process.signal(signal.SIGTERM)
    return finished(process.process).stderr
