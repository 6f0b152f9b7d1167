"""
One Postgres and one Kafka for all processes of pytest-xdist.

The controller starts one when a worker first asks for it. So they end with the controller, however that ends.

Each worker has its own SeaweedFS: uploads to a shared one stall while tests of another worker keep it busy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from multiprocessing.connection import Client, Listener
from secrets import token_bytes
from threading import Thread
from typing import Any, Self
from uuid import uuid4

from pipeline_processing.embedded.kafka import KafkaServer
from pipeline_processing.embedded.ports import LOOPBACK
from pipeline_processing.embedded.postgres import PostgresServer
from pipeline_processing.embedded.process import EmbeddedServerError
from pipeline_processing.embedded.seaweedfs import SeaweedFSServer
from pipeline_processing.embedded.server import EmbeddedServer
from pipeline_processing.embedded.servers import EmbeddedServers

Offer = dict[str, Any]
"""How a worker reaches the controller, in types that xdist can send."""


def unique(name: str) -> str:
    """Return a name of a database or role that no other test has, beginning with `name`."""
    return f"{name}_{uuid4().hex[:8]}"


@contextmanager
def offered_servers() -> Iterator[Offer]:
    """In the controller: start servers for workers that ask. They are stopped at the end of the block."""
    key = token_bytes()
    with ExitStack() as running, Listener((LOOPBACK, 0), authkey=key) as listener:
        Thread(target=_answer, args=(listener, running), daemon=True).start()
        yield {"port": listener.address[1], "key": key}


def _answer(listener: Listener, running: ExitStack) -> None:
    @cache
    def started(kind: type[EmbeddedServer]) -> EmbeddedServer:
        return running.enter_context(kind())

    while True:
        with listener.accept() as worker:
            try:
                worker.send(started(worker.recv())._ports)
            except EmbeddedServerError as error:
                worker.send(error)


@contextmanager
def servers_from(offer: Offer) -> Iterator[EmbeddedServers]:
    """
    In a worker: the controller's Postgres and Kafka, and a SeaweedFS. Kafka is to be entered as a block later.

    Raises EmbeddedServerError if they don't start.
    """
    postgres = PostgresServer()
    _connect(postgres, offer, PostgresServer)
    with SeaweedFSServer() as seaweedfs:
        yield EmbeddedServers(postgres=postgres, seaweedfs=seaweedfs, kafka=_SharedKafka(offer))


class _SharedKafka(KafkaServer):
    def __init__(self, offer: Offer) -> None:
        super().__init__()
        self._offer = offer

    def __enter__(self) -> Self:
        _connect(self, self._offer, KafkaServer)
        return self


def _connect(server: EmbeddedServer, offer: Offer, kind: type[EmbeddedServer]) -> None:
    """Make clients of `server` reach the controller's."""
    with Client((LOOPBACK, offer["port"]), authkey=offer["key"]) as controller:
        controller.send(kind)
        answer = controller.recv()
    if isinstance(answer, EmbeddedServerError):
        raise answer
    server._ports, server._has_been_up = answer, True
