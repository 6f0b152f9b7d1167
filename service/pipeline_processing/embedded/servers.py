"""All embedded servers together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline_processing.embedded.postgres import PostgresServer
from pipeline_processing.embedded.process import ScratchFolder
from pipeline_processing.embedded.seaweedfs import SeaweedFSServer


@dataclass(frozen=True, slots=True)
class EmbeddedServers:
    postgres: PostgresServer
    seaweedfs: SeaweedFSServer

    @property
    def folder(self) -> Path:
        """The temporary folder of both. What is put there goes with them."""
        return self.postgres.directory.parent

    def environment(self, *, database: str, bucket: str, prefix: str = "") -> dict[str, str]:
        """The PIPELINE_* variables under which the service reads `database` and writes to `bucket`."""
        return {
            "PIPELINE_SOURCE__DSN": self.postgres.dsn(database),
            "PIPELINE_S3__ENDPOINT_URL": self.seaweedfs.endpoint_url,
            "PIPELINE_S3__REGION": self.seaweedfs.region,
            "PIPELINE_S3__ACCESS_KEY_ID": self.seaweedfs.access_key_id,
            "PIPELINE_S3__SECRET_ACCESS_KEY": self.seaweedfs.secret_access_key,
            "PIPELINE_S3__ADDRESSING_STYLE": "path",
            "PIPELINE_DESTINATION": f"s3://{bucket}/{prefix}".rstrip("/"),
        }


@contextmanager
def embedded_servers(*, start_seconds: float = 30.0) -> Iterator[EmbeddedServers]:
    """
    Both servers, in one temporary folder, up inside the block and gone after.

    Raises EmbeddedServerError.
    """
    with ScratchFolder() as folder, ExitStack() as stack:
        # Side by side without threads, so that Ctrl-C ends the wait at once: SeaweedFS, the slower one, comes
        # up while Postgres initialises its data.
        seaweedfs = SeaweedFSServer(folder=folder, start_seconds=start_seconds)
        postgres = PostgresServer(folder=folder, start_seconds=start_seconds)
        for server in (seaweedfs, postgres):
            server.open(stack)
        for server in (postgres, seaweedfs):
            server.wait_until_ready()
        yield EmbeddedServers(postgres=postgres, seaweedfs=seaweedfs)
