"""Servers are asked until they answer, and an outage is logged once, whoever meets it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pipeline_processing.aio.asking import Backoff, Server, ask
from pipeline_processing.aio.tasks import Stopped
from pipeline_processing.errors import AccessDenied, KafkaUnavailable, PipelineError, Throttled
from tests.unit.virtual_clock import VirtualClock, in_virtual_time

AWAY = KafkaUnavailable("no route")
CLOCK = VirtualClock()
DOUBLING = Backoff(1.0, 4.0, jitter=lambda: 0.0)


class Flaky:
    """Raises these errors, one after the other, and then answers."""

    def __init__(self, *errors: PipelineError) -> None:
        self.errors = list(errors)
        self.called_at: list[float] = []

    async def __call__(self) -> str:
        self.called_at.append(CLOCK.monotonic())
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


# -- asking --------------------------------------------------------------------------------------


@in_virtual_time
async def test_it_asks_until_there_is_an_answer() -> None:
    """With the pauses of the backoff."""
    call = Flaky(*[AWAY] * 5)
    assert await ask(call, clock=CLOCK, backoff=DOUBLING) == "answer"
    assert call.called_at == [0, 1, 3, 7, 11, 15]


@in_virtual_time
async def test_a_server_that_asks_for_a_longer_pause_gets_it() -> None:
    """Never a shorter one than after any other error, and no more than a day."""
    errors = [Throttled("slow down", retry_after=seconds) for seconds in (0.5, 600, 999_999_999)]
    call = Flaky(*errors)
    await ask(call, clock=CLOCK, backoff=DOUBLING)
    assert call.called_at == [0, 1, 601, 601 + 24 * 60 * 60]


@pytest.mark.parametrize(
    ("limits", "called_at"), [({"tries": 3}, [0, 1, 3]), ({"within": 7}, [0, 1, 3, 7]), ({"within": 6.9}, [0, 1, 3])]
)
def test_asking_has_limits(limits: dict[str, Any], called_at: list[float]) -> None:
    """The last error is raised as soon as no other call is allowed."""

    @in_virtual_time
    async def scenario() -> None:
        call = Flaky(*[AWAY] * 9)
        with pytest.raises(KafkaUnavailable):
            await ask(call, clock=CLOCK, backoff=DOUBLING, **limits)
        assert call.called_at == called_at
        assert CLOCK.monotonic() == called_at[-1]

    scenario()


@in_virtual_time
async def test_an_error_that_another_call_cant_help_is_raised_at_once() -> None:
    """By default all but transient errors; the caller may know better."""
    with pytest.raises(AccessDenied):
        await ask(Flaky(AccessDenied("no")), clock=CLOCK, backoff=DOUBLING)
    with pytest.raises(KafkaUnavailable):
        await ask(Flaky(AWAY), clock=CLOCK, backoff=DOUBLING, retry=lambda error: False)
    assert await ask(Flaky(AccessDenied("no")), clock=CLOCK, backoff=DOUBLING, retry=lambda error: True) == "answer"


@in_virtual_time
async def test_a_stop_ends_the_pause_and_the_asking() -> None:
    """But never a call that is under way."""
    stop, call = asyncio.Event(), Flaky(AWAY)
    asking = asyncio.create_task(ask(call, clock=CLOCK, backoff=Backoff.constant(60), stop=stop))
    await CLOCK.sleep(1)
    stop.set()
    with pytest.raises(Stopped):
        await asking
    assert (CLOCK.monotonic(), call.called_at) == (1, [0])
    assert await ask(call, clock=CLOCK, backoff=DOUBLING, stop=stop) == "answer"


@given(failures=st.integers(1, 5000), jitter=st.floats(0, 1))
def test_the_pause_doubles_up_to_a_limit_and_is_shortened_by_up_to_half(failures: int, jitter: float) -> None:
    """So that many callers that failed together don't return together."""
    longest = min(60.0, 2.0 ** min(failures - 1, 10))
    pause = Backoff(1.0, 60.0, jitter=lambda: jitter).seconds(failures)
    assert longest / 2 - 1e-6 <= pause <= longest
    assert Backoff(1.0, 60.0, jitter=lambda: 0.0).seconds(failures) >= pause


# -- outages -------------------------------------------------------------------------------------


def logged(log: list[Any]) -> list[str]:
    return [f"{line['log_level']}: {line['event']}" for line in log]


def test_an_outage_is_logged_once_when_it_begins_and_once_when_it_ends() -> None:
    """However often its callers try, and however many they are."""
    server = Server("Kafka", clock=CLOCK)
    with capture_logs() as log:
        for _ in range(3):
            server.away(AWAY, by="intake")
            server.away(AWAY, by="outbox")
        server.back(by="intake")
        assert server.problem == "no route"
        server.back(by="outbox")
    assert logged(log) == ["warning: Kafka can't be used; retrying until it can", "info: Kafka is back"]
    assert server.problem is None


@in_virtual_time
async def test_a_caller_that_gives_up_complains_no_longer() -> None:
    """The outage ends with the next answer to anybody."""
    server = Server("Kafka", clock=CLOCK)
    with capture_logs() as log:
        with pytest.raises(KafkaUnavailable):
            await server.ask(Flaky(*[AWAY] * 9), by="intake", within=3)
        assert (server.problem, len(log)) == (None, 1)
        assert await server.ask(Flaky(AWAY), by="outbox") == "answer"
    assert logged(log) == ["warning: Kafka can't be used; retrying until it can", "info: Kafka is back"]


@in_virtual_time
async def test_asking_a_server_keeps_account_of_its_outage() -> None:
    """It is away from the first failure to the answer; one that was never away is not back."""
    server, call = Server("Kafka", clock=CLOCK), Flaky(*[AWAY] * 4)
    with capture_logs() as log:
        asking = asyncio.create_task(server.ask(call, by="intake"))
        await CLOCK.sleep(2.5)
        assert server.problem == "no route"
        assert await asking == "answer"
        assert await server.ask(call, by="outbox") == "answer"
    assert (server.problem, call.called_at) == (None, [0, 1, 2, 3, 4, 4])
    assert logged(log) == ["warning: Kafka can't be used; retrying until it can", "info: Kafka is back"]
