"""One Kafka for all test processes: started by the first, and stopped after the last."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.shared_kafka import shared_kafka


class Server:
    """What `shared_kafka` uses of a server, without Java."""

    def __init__(self, port: int) -> None:
        self._ports: list[int] = []
        self._port = port
        self.runs = False

    def __enter__(self) -> None:
        self._ports, self.runs = [self._port], True

    def __exit__(self, *_: object) -> None:
        self.runs = False


def test_whoever_starts_it_stops_it_after_the_others(tmp_path: Path) -> None:
    """The others connect to it. Whoever comes after its end starts another."""
    servers: list[Any] = [Server(1), Server(2), Server(3)]
    first, second, third = servers
    has_started, may_leave = Event(), Event()

    def start_first() -> None:
        with shared_kafka(first, tmp_path):
            has_started.set()
            may_leave.wait(20)

    with ThreadPoolExecutor() as threads:
        starter = threads.submit(start_first)
        assert has_started.wait(20)
        with shared_kafka(second, tmp_path):
            assert (second._ports, second.runs) == ([1], False)
            may_leave.set()
            with pytest.raises(TimeoutError):
                starter.result(0.1)
            assert first.runs
        starter.result(20)

    assert not first.runs
    with shared_kafka(third, tmp_path):
        assert (third._ports, third.runs) == ([3], True)
