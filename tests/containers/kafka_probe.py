"""Asks a Kafka broker, in its protocol and without a client library, for its identity and readiness."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from pipeline_processing.embedded.ports import LOOPBACK

_METADATA, _VERSION = 3, 4  # the first supported version with all fields we need, and fixed-width lengths
_NO_TOPICS, _NO_AUTO_CREATION = 0, False


class ClusterSeen(NamedTuple):
    """`broker_ports` are the ports of the cluster's active brokers, without those that are still starting."""

    cluster_id: str
    broker_ports: list[int]


def see_cluster(port: int, *, seconds: float) -> ClusterSeen:
    """
    Return what the broker knows. Raises OSError without an answer in time, and ValueError for an invalid one.

    https://kafka.apache.org/protocol#The_Messages_Metadata
    """
    client = b"probe"
    header = struct.pack(f">hhih{len(client)}s", _METADATA, _VERSION, 0, len(client), client)
    request = header + struct.pack(">i?", _NO_TOPICS, _NO_AUTO_CREATION)
    with socket.create_connection((LOOPBACK, port), timeout=seconds) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        with connection.makefile("rb") as answer:
            try:
                (length,) = struct.unpack(">i", answer.read(4))
                return _understood(_Reader(answer.read(length)))
            except struct.error as error:
                raise ValueError(f"not an answer of Kafka's: {error}") from error


def _understood(answer: _Reader) -> ClusterSeen:
    answer.numbers(">ii")  # correlation id, throttle time
    brokers: list[int] = []
    for _ in range(answer.numbers(">i")[0]):
        answer.numbers(">i")  # node id
        answer.text()  # host
        brokers += answer.numbers(">i")
        answer.text()  # rack
    return ClusterSeen(cluster_id=answer.text(), broker_ports=brokers)


class _Reader:
    """Reads values from bytes one by one. Raises struct.error at the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def numbers(self, layout: str) -> tuple[int, ...]:
        found = struct.unpack_from(layout, self._data, self._position)
        self._position += struct.calcsize(layout)
        return found

    def text(self) -> str:
        """Read a text; null is read as an empty one."""
        (length,) = self.numbers(">h")
        (value,) = struct.unpack_from(f"{max(length, 0)}s", self._data, self._position)
        self._position += len(value)
        return str(value, "utf-8")
