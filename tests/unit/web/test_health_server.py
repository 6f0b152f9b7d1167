"""`/livez` and `/readyz`, as a prober sees them."""

from __future__ import annotations

import socket

import aiohttp
import pytest
import structlog

from pipeline_processing.errors import KafkaUnavailable
from pipeline_processing.telemetry.health import Health, Pulse, Servers
from pipeline_processing.telemetry.masking import Mask
from pipeline_processing.web.health import health_server
from tests.unit.virtual_clock import VirtualClock

LOOPBACK = "127.0.0.1"


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        number: int = probe.getsockname()[1]
        return number


async def asked(port: int, path: str) -> tuple[int, object]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{LOOPBACK}:{port}{path}") as answer:
        return answer.status, await answer.json()


async def test_it_says_what_is_wrong(port: int) -> None:
    """200 while all is well; 503 with the reasons, without secrets."""
    servers, pulse = Servers(clock=VirtualClock()), Pulse("intake", clock=VirtualClock())
    health = Health(pulses=[pulse], servers=servers)
    health.state = "serving"
    mask = Mask()
    mask.know(["tops3cret"])
    async with health_server(health, host=LOOPBACK, port=port, mask=mask):
        assert await asked(port, "/livez") == (200, {"status": "ok"})
        assert await asked(port, "/readyz") == (200, {"status": "ok"})

        servers.kafka.away(KafkaUnavailable("no answer from kafka://me:secret@broker, tops3cret"), by="intake")
        told = ["Kafka: no answer from kafka://me:***@broker, ***"]
        assert await asked(port, "/readyz") == (503, {"status": "unavailable", "problems": told})
        assert await asked(port, "/livez") == (200, {"status": "ok"})

        pulse.stuck("no records come")
        assert await asked(port, "/livez") == (503, {"status": "unavailable", "problems": ["intake: no records come"]})


async def test_a_port_that_is_taken_is_said_and_does_not_stop_the_service(port: int) -> None:
    """Two of them on one machine do their work all the same."""
    health = Health(pulses=[], servers=Servers(clock=VirtualClock()))
    async with health_server(health, host=LOOPBACK, port=port, mask=Mask()):
        with structlog.testing.capture_logs() as log:
            async with health_server(health, host=LOOPBACK, port=port, mask=Mask()):
                pass

    (line,) = log
    assert (line["log_level"], line["port"]) == ("warning", port)
    assert "PIPELINE_HTTP__PORT" in line["event"]
