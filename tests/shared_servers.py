"""
One set of embedded servers for all processes of pytest-xdist.

The controller starts a server when a worker first asks for it. So servers end with the controller, however that ends.
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
from pipeline_processing.embedded.servers import EmbeddedServers, embedded_servers

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
    def servers() -> EmbeddedServers:
        return running.enter_context(embedded_servers(kafka=False))

    @cache
    def kafka() -> KafkaServer:
        return running.enter_context(servers().kafka)

    while True:
        with listener.accept() as worker:
            try:
                server: EmbeddedServer = kafka() if (name := worker.recv()) == "kafka" else getattr(servers(), name)
                worker.send(server._ports)
            except EmbeddedServerError as error:
                worker.send(error)


def servers_from(offer: Offer) -> EmbeddedServers:
    """
    In a worker: return the controller's Postgres and SeaweedFS, and its Kafka, which is to be entered as a block.

    Raises EmbeddedServerError if they don't start.
    """
    postgres, seaweedfs = PostgresServer(), SeaweedFSServer()
    _connect(postgres, offer, "postgres")
    _connect(seaweedfs, offer, "seaweedfs")
    return EmbeddedServers(postgres=postgres, seaweedfs=seaweedfs, kafka=_SharedKafka(offer))


class _SharedKafka(KafkaServer):
    def __init__(self, offer: Offer) -> None:
        super().__init__()
        self._offer = offer

    def __enter__(self) -> Self:
        _connect(self, self._offer, "kafka")
        return self


def _connect(server: EmbeddedServer, offer: Offer, name: str) -> None:
    """Make clients of `server` reach the controller's."""
    with Client((LOOPBACK, offer["port"]), authkey=offer["key"]) as controller:
        controller.send(name)
        answer = controller.recv()
    if isinstance(answer, EmbeddedServerError):
        raise answer
    server._ports, server._has_been_up = answer, True
