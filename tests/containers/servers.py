"""Starts all servers in containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from testcontainers.core.network import Network

from pipeline_processing.embedded.servers import EmbeddedServers
from tests.containers.images import image
from tests.containers.kafka import KafkaContainer
from tests.containers.postgres import PostgresContainer
from tests.containers.seaweedfs import SeaweedFSContainer
from tests.containers.server import ContainerServer


@contextmanager
def container_servers(environment: Mapping[str, str]) -> Iterator[EmbeddedServers]:
    """
    Run Postgres and SeaweedFS inside the block, in place of the embedded ones. Kafka is started by entering it as a
    block. `environment` may name other images.

    Raises ContainerError if a server doesn't start.
    """
    with Network() as network:

        def server(kind: type[ContainerServer]) -> Any:  # not the fields' classes, but compatible ones
            return kind(image=image(kind.variable, environment), network=network)

        servers = EmbeddedServers(
            postgres=server(PostgresContainer), seaweedfs=server(SeaweedFSContainer), kafka=server(KafkaContainer)
        )
        with servers.postgres, servers.seaweedfs:
            yield servers
