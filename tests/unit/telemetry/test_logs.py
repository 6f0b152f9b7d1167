"""Logs: one renderer for all, on stderr, with the run that a line is about, and without secrets."""

import asyncio
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext
from pydantic import SecretStr

from pipeline_processing.telemetry.logs import bound_run, configure_logs, render_json
from pipeline_processing.telemetry.masking import Mask

log = structlog.get_logger("pipeline_processing.test")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def test_a_line_is_one_json_object_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(json=True, level="info", mask=Mask())

    log.info("uploaded", key="records/part-00000.ndjson", size=3)

    (line,) = lines(capsys)
    at = line.pop("timestamp")
    assert datetime.fromisoformat(at).utcoffset() == timedelta(0)
    assert line == {
        "level": "info",
        "logger": "pipeline_processing.test",
        "event": "uploaded",
        "key": "records/part-00000.ndjson",
        "size": 3,
    }


def test_library_logs_look_alike(capsys: pytest.CaptureFixture[str]) -> None:
    """The standard library's loggers and warnings come out in the same form, `extra` included."""
    configure_logs(json=True, level="info", mask=Mask())

    logging.getLogger("driver").info("joined %s", "group", extra={"generation": 7})
    warnings.warn("old", stacklevel=1)

    joined, warned = lines(capsys)
    assert (joined["event"], joined["logger"], joined["level"], joined["generation"]) == (
        "joined group",
        "driver",
        "info",
        7,
    )
    assert "old" in warned["event"]


def test_the_level_holds_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(json=True, level="warning", mask=Mask())

    log.info("no")
    logging.getLogger("driver").info("no")
    log.warning("yes")

    assert [line["event"] for line in lines(capsys)] == ["yes"]


def test_signed_requests_are_never_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """At DEBUG, botocore would print headers with credentials."""
    configure_logs(json=True, level="debug", mask=Mask())

    logging.getLogger("botocore.auth").debug("Authorization: …")
    log.debug("ours")

    assert [line["event"] for line in lines(capsys)] == ["ours"]


@pytest.mark.parametrize(("level", "told"), [("info", []), ("debug", ["can't connect", "joined"])])
def test_kafkas_client_is_quiet_but_for_debugging(
    capsys: pytest.CaptureFixture[str], level: str, told: list[str]
) -> None:
    """In an outage it would fill the log; and it never shows its requests, one of which holds the password."""
    configure_logs(json=True, level=level, mask=Mask())

    for name in ("aiokafka", "aiokafka.conn", "kafka"):
        logging.getLogger(name).error("can't connect")
        logging.getLogger(name).info("joined")
        logging.getLogger(name).debug("Request: SaslAuthenticateRequest(…)")

    assert [line["event"] for line in lines(capsys)] == told * 3


async def test_each_task_says_which_run_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    """Runs side by side keep apart; afterwards nothing is left bound."""
    configure_logs(json=True, level="info", mask=Mask())

    async def work(agency_id: int) -> None:
        with bound_run(run_id=f"run-{agency_id}", agency_id=agency_id, attempt=1):
            await asyncio.sleep(0)
            log.info("ours")
            logging.getLogger("library").info("theirs")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(work(1))
        tasks.create_task(work(2))
    log.info("after")

    *during, after = lines(capsys)
    assert [(line["run_id"], line["agency_id"], line["attempt"]) for line in during] == [
        ("run-1", 1, 1),
        ("run-1", 1, 1),
        ("run-2", 2, 1),
        ("run-2", 2, 1),
    ]
    assert "run_id" not in after
    assert "trace_id" not in during[0]


def test_the_current_spans_trace_id_is_added_unless_one_is_bound(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(json=True, level="info", mask=Mask())
    span = NonRecordingSpan(SpanContext(trace_id=0xABC, span_id=1, is_remote=False))

    with trace.use_span(span):
        log.info("current")
        with bound_run(trace_id="f" * 32):
            log.info("bound")

    assert [line["trace_id"] for line in lines(capsys)] == [f"{0xABC:032x}", "f" * 32]


def test_secrets_are_masked_wherever_they_hide(capsys: pytest.CaptureFixture[str]) -> None:
    """In our text, in a library's, in a traceback, under a key's name, deep inside a value."""
    configure_logs(json=True, level="info", mask=Mask())
    dsn = "postgresql://app:tops3cret@db:5432/x"

    log.info(
        "connecting to %s", dsn, dsn=dsn, password="tops3cret", kafka={"sasl_password": "tops3cret", "urls": [dsn]}
    )
    log.info("typed", value=SecretStr("tops3cret"), error=ValueError(dsn))
    logging.getLogger("driver").warning("failed: %s", dsn, extra={"secret_access_key": "tops3cret"})
    try:
        raise ConnectionError(f"can't connect to {'postgresql://app:tops'}{'3cret@db'}")
    except ConnectionError:
        log.exception("broken", headers={"Authorization": "tops3cret"})

    text = capsys.readouterr().err
    assert len(text.splitlines()) == 4
    assert "tops3cret" not in text
    assert text.count("postgresql://app:***@db:5432/x") == 4


def test_known_secrets_are_masked_in_every_part_of_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """In names of loggers, keys, numbers and bytes, and in what can't be written at all."""
    mask = Mask()
    configure_logs(json=True, level="info", mask=mask)
    mask.know(["tops3cret", "12345678", "info"])  # also what it learns later

    log.info("ours", **{"of tops3cret": 1}, nested={"tops3cret": [{"x": b"tops3cret"}]}, pin=12345678)
    logging.getLogger("of.tops3cret").info("%s", "tops3cret", stack_info=True, extra={"level": "tops3cret"})
    logging.getLogger("driver").info("%d", "tops3cret")

    text = capsys.readouterr().err
    assert len(text.splitlines()) == 3
    assert json.loads(text.splitlines()[0])["level"] == "info"
    assert "tops3cret" not in text
    assert "12345678" not in text
    assert "can't be written: TypeError" in text


ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
    max_leaves=5,
)


@given(st.dictionaries(st.text(st.characters()), ANYTHING))
def test_whatever_is_logged_gives_one_line(event: dict[str, Any]) -> None:
    """Huge integers, lone surrogates, bytes: a log call never raises, and its line is JSON."""
    line = render_json(None, "info", event)

    assert "\n" not in line
    json.loads(line)


def test_people_get_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(json=False, level="info", mask=Mask())

    with bound_run(run_id="run-1"):
        log.info("connecting", dsn="postgresql://u:tops3cret@h")

    text = capsys.readouterr().err
    assert "connecting" in text
    assert "run_id=run-1" in text
    assert "tops3cret" not in text


def test_the_last_configuration_holds(capsys: pytest.CaptureFixture[str]) -> None:
    """A second call replaces the first: no line comes twice."""
    configure_logs(json=False, level="debug", mask=Mask())
    configure_logs(json=True, level="info", mask=Mask())

    log.debug("no")
    log.info("once")

    assert [line["event"] for line in lines(capsys)] == ["once"]
