"""All servers together, in containers."""

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
    In place of the embedded ones: Postgres and SeaweedFS up inside the block, Kafka left to be entered as a block
    by whoever wants it. `environment` may name images.

    Raises ContainerError.
    """
    with Network() as network:

        def server(kind: type[ContainerServer]) -> Any:  # not of the classes that the fields name, but alike
            return kind(image=image(kind.variable, environment), network=network)

        servers = EmbeddedServers(
            postgres=server(PostgresContainer), seaweedfs=server(SeaweedFSContainer), kafka=server(KafkaContainer)
        )
        with servers.postgres, servers.seaweedfs:
            yield servers
