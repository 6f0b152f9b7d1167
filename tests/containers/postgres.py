"""Postgres in a container."""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import quote

from testcontainers.core.container import DockerContainer

from pipeline_processing.embedded.ports import LOOPBACK
from tests.containers.engine import ContainerError
from tests.containers.server import ContainerServer

_PORT = 5432


class PostgresContainer(ContainerServer):
    """Like the embedded one: superuser `pipeline`, no password, UTF8, order by code point, time zone UTC."""

    name: ClassVar[str] = "Postgres"
    variable: ClassVar[str] = "POSTGRES_IMAGE"
    user: ClassVar[str] = "pipeline"

    def dsn(self, database: str = "postgres") -> str:
        return f"postgresql://{self.user}@{LOOPBACK}:{self.port}/{quote(database, safe='')}"

    def create_database(self, name: str, *, template: str | None = None) -> None:
        """Create a database, as a copy of `template` if given. Raises ContainerError, also if that is in use."""
        self._run_client("createdb", *(() if template is None else ("--template", template)), "--", name)

    def drop_database(self, name: str) -> None:
        """Drop a database, even if clients are connected to it. Raises ContainerError."""
        self._run_client("dropdb", "--force", "--", name)

    def _run_client(self, tool: str, *arguments: str) -> None:
        code, output = self._run(tool, *self._from_inside(), "--maintenance-db=postgres", *arguments)
        if code != 0:
            raise ContainerError(f"{tool} failed: {output.strip()}")

    def _configure(self, container: DockerContainer) -> int:
        container.with_envs(
            POSTGRES_USER=self.user,
            POSTGRES_DB="postgres",
            POSTGRES_HOST_AUTH_METHOD="trust",
            # The C library's locale, because the embedded server's builtin one needs Postgres 17.
            POSTGRES_INITDB_ARGS="--encoding=UTF8 --locale=C.UTF-8 --no-sync",
        )
        throwaway = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
        container.with_command(["postgres", *(word for setting in throwaway for word in ("-c", setting))])
        return _PORT

    def _is_ready(self) -> bool:
        # By TCP, because while the image prepares the data, the server already answers on its socket.
        code, _ = self._run("pg_isready", *self._from_inside())
        return code == 0

    def _from_inside(self) -> tuple[str, ...]:
        return (f"--host={LOOPBACK}", f"--username={self.user}")
