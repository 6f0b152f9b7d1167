"""Apache Kafka in a container."""

from __future__ import annotations

from typing import ClassVar

from testcontainers.core.container import DockerContainer

from pipeline_processing.embedded.kafka import _PROPERTIES
from pipeline_processing.embedded.ports import LOOPBACK
from tests.containers.kafka_probe import see_cluster
from tests.containers.server import ContainerServer

_CONTROLLER_PORT = 9093  # below every possible `port`
_ANSWER_SECONDS = 2.0


class KafkaContainer(ContainerServer):
    """One broker, which is its own controller, with the properties of the embedded one."""

    name: ClassVar[str] = "Kafka"
    variable: ClassVar[str] = "KAFKA_IMAGE"

    @property
    def bootstrap_servers(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def _configure(self, container: DockerContainer) -> int:
        for line in _PROPERTIES.format(host=LOOPBACK, broker=self.port, controller=_CONTROLLER_PORT).splitlines():
            if line and not line.startswith("#"):
                key, value = line.split("=", 1)
                container.with_env(f"KAFKA_{key.upper().replace('.', '_')}", value)
        container.with_envs(
            KAFKA_LISTENERS=f"PLAINTEXT://:{self.port},CONTROLLER://{LOOPBACK}:{_CONTROLLER_PORT}",
            KAFKA_LOG_DIRS="/var/lib/kafka/data",
            KAFKA_HEAP_OPTS="-Xmx512m",
        )
        # The same port inside and outside, because for transactions the broker connects to its advertised address.
        return self.port

    def _is_ready(self) -> bool:
        try:
            return see_cluster(self.port, seconds=_ANSWER_SECONDS).broker_ports == [self.port]
        except (OSError, ValueError):
            return False
