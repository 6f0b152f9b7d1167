"""One Kafka for all processes of pytest-xdist."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline_processing.embedded.kafka import KafkaServer


@contextmanager
def shared_kafka(server: KafkaServer, folder: Path) -> Iterator[KafkaServer]:
    """
    Run `server` inside the block, or connect it to the one that another process with the same `folder` runs.

    Whoever starts it stops it, after all others have left their blocks. The locks end with their processes, and the
    server ends with the process that started it, so that nothing is left of a run that is killed.
    """
    with (folder / "kafka").open("a+") as started, (folder / "kafka-users").open("a") as users:
        fcntl.flock(started, fcntl.LOCK_EX)
        # Waits if it is being stopped.
        fcntl.flock(users, fcntl.LOCK_SH)
        started.seek(0)
        ports = [int(port) for port in started.read().split()]
        if ports:
            fcntl.flock(started, fcntl.LOCK_UN)
            server._ports, server._has_been_up = ports, True
            yield server
            return
        with server:
            started.write(" ".join(map(str, server._ports)))
            started.flush()
            fcntl.flock(started, fcntl.LOCK_UN)
            try:
                yield server
            finally:
                fcntl.flock(users, fcntl.LOCK_EX)
                started.truncate(0)
