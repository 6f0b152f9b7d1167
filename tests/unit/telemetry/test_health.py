"""What `/livez` and `/readyz` go by."""

from pipeline_processing.errors import KafkaUnavailable
from pipeline_processing.telemetry.health import SILENT_SECONDS, Health, Pulse, Servers
from tests.unit.virtual_clock import VirtualClock, in_virtual_time


@in_virtual_time
async def test_a_loop_that_hangs_is_not_alive() -> None:
    """A loop that doesn't come round any more ends the process, so that another takes its place."""
    clock = VirtualClock()
    pulse = Pulse("intake", clock=clock)
    health = Health(pulses=[pulse], servers=Servers(clock=VirtualClock()))
    pulse.beat()
    await clock.sleep(SILENT_SECONDS)
    assert health.not_alive() == []

    await clock.sleep(1)

    assert health.not_alive() == ["intake has been silent for 91 s"]
    pulse.beat()
    assert health.not_alive() == []


@in_virtual_time
async def test_a_loop_that_goes_round_and_gets_nothing_done_is_not_alive() -> None:
    """Coming round isn't enough: what is stuck stays so until something moves."""
    pulse = Pulse("intake", clock=VirtualClock())
    health = Health(pulses=[pulse], servers=Servers(clock=VirtualClock()))
    pulse.stuck("no records come")
    pulse.beat()
    assert health.not_alive() == ["intake: no records come"]

    pulse.moving()

    assert health.not_alive() == []


@in_virtual_time
async def test_what_has_not_begun_or_has_ended_is_alive() -> None:
    """Waiting for a server at the start, and draining, are no reason to be killed."""
    clock = VirtualClock()
    pulse = Pulse("intake", clock=clock)
    health = Health(pulses=[pulse], servers=Servers(clock=VirtualClock()))
    await clock.sleep(SILENT_SECONDS * 2)
    assert health.not_alive() == []

    pulse.beat()
    pulse.stop()
    await clock.sleep(SILENT_SECONDS * 2)

    assert health.not_alive() == []


def test_an_outage_makes_it_unready_and_leaves_it_alive() -> None:
    """Starting this process anew wouldn't bring a server back."""
    servers = Servers(clock=VirtualClock())
    health = Health(pulses=[], servers=servers)
    health.state = "serving"
    assert health.not_ready() == []

    servers.kafka.away(KafkaUnavailable("no route"), by="intake")

    assert health.not_ready() == ["Kafka: no route"]
    assert health.not_alive() == []


def test_it_is_ready_only_while_it_serves() -> None:
    """Neither before everything has begun nor from SIGTERM on."""
    health = Health(pulses=[], servers=Servers(clock=VirtualClock()))
    assert health.not_ready() == ["starting"]

    health.state = "stopping"

    assert health.not_ready() == ["stopping"]
