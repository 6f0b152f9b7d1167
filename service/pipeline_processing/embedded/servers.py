"""Starts all embedded servers together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline_processing.embedded.kafka import KafkaServer
from pipeline_processing.embedded.kafka_jars import Say
from pipeline_processing.embedded.postgres import PostgresServer
from pipeline_processing.embedded.process import ScratchFolder
from pipeline_processing.embedded.seaweedfs import SeaweedFSServer


@dataclass(frozen=True, slots=True)
class EmbeddedServers:
    postgres: PostgresServer
    seaweedfs: SeaweedFSServer
    kafka: KafkaServer

    @property
    def folder(self) -> Path:
        """The temporary folder of all servers, removed with them."""
        return self.postgres.directory.parent

    def environment(self, *, database: str, bucket: str, prefix: str = "") -> dict[str, str]:
        """
        Return the PIPELINE_* variables for a service that reads `database`, writes to `bucket`, and uses Kafka if it
        was started.
        """
        kafka = {"PIPELINE_KAFKA__BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers} if self.kafka.has_been_up else {}
        return {
            **kafka,
            "PIPELINE_SOURCE__DSN": self.postgres.dsn(database),
            "PIPELINE_S3__ENDPOINT_URL": self.seaweedfs.endpoint_url,
            "PIPELINE_S3__REGION": self.seaweedfs.region,
            "PIPELINE_S3__ACCESS_KEY_ID": self.seaweedfs.access_key_id,
            "PIPELINE_S3__SECRET_ACCESS_KEY": self.seaweedfs.secret_access_key,
            "PIPELINE_S3__ADDRESSING_STYLE": "path",
            "PIPELINE_DESTINATION": f"s3://{bucket}/{prefix}".rstrip("/"),
        }


@contextmanager
def embedded_servers(
    *, kafka: bool = True, start_seconds: float = 60.0, say: Say = lambda _: None
) -> Iterator[EmbeddedServers]:
    """
    Run all servers inside the block, in one temporary folder.

    Without `kafka`, Kafka isn't started; enter it as a block later. Calls `say` if Kafka has to be downloaded.
    Raises EmbeddedServerError.
    """
    with ScratchFolder() as folder, ExitStack() as stack:
        # Launch the slowest first; it starts while Postgres initialises its data. No threads, so that Ctrl-C ends the
        # wait at once.
        servers = EmbeddedServers(
            kafka=KafkaServer(folder=folder, start_seconds=start_seconds, say=say),
            seaweedfs=SeaweedFSServer(folder=folder, start_seconds=start_seconds),
            postgres=PostgresServer(folder=folder, start_seconds=start_seconds),
        )
        started = [*([servers.kafka] if kafka else []), servers.seaweedfs, servers.postgres]
        for server in started:
            server.open(stack)
        for server in reversed(started):
            server.wait_until_ready()
        yield servers
