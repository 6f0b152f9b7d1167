"""PgBouncer in front of a Postgres, for tests: the installed one, else Debian's, unpacked into the cache folder."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import SIGTERM, Signals
from typing import ClassVar
from urllib.parse import unquote, urlsplit, urlunsplit

from pipeline_processing.embedded.ports import LOOPBACK
from pipeline_processing.embedded.process import Launch
from pipeline_processing.embedded.server import EmbeddedServer
from tests.debian import library_path, unpacked

POOL_MODES = tuple(os.environ.get("TEST_POOL_MODES", "transaction").split(","))
"""The modes in which contract suites run. Session mode behaves much like Postgres, and has a few tests besides."""

_SYSTEM_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"


class PgBouncer(EmbeddedServer):
    """
    A pooler in front of the server of `dsn`, for all its databases.

    Each database and user gets up to `pool_size` connections to the server; further clients wait.
    """

    name: ClassVar[str] = "PgBouncer"
    stop_signal: ClassVar[Signals] = SIGTERM
    stop_seconds: ClassVar[float] = 5.0

    def __init__(self, *, dsn: str, pool_mode: str = "transaction", pool_size: int = 20) -> None:
        """`pool_mode` is `transaction` or `session`. Raises PackageMissing."""
        super().__init__()
        self._behind = urlsplit(dsn)
        self._pool_mode = pool_mode
        self._pool_size = pool_size
        self._command = _command()

    def dsn(self, database: str = "postgres") -> str:
        """Return the DSN of a database through the pooler."""
        user = self._behind.netloc.rpartition("@")[0]
        return urlunsplit(self._behind._replace(netloc=f"{user}@{LOOPBACK}:{self._ports[0]}", path=f"/{database}"))

    def _prepare(self) -> None:
        user, password = self._behind.username or "", unquote(self._behind.password or "")
        users = self.directory / "users.txt"
        users.write_text(f'"{user}" "{password}"\n')
        users.chmod(0o644)  # `nobody` must be able to read it

    def _launch(self) -> Launch:
        settings = {
            "listen_addr": LOOPBACK,
            "listen_port": self._ports[0],
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": self.directory / "users.txt",
            "pool_mode": self._pool_mode,
            "default_pool_size": self._pool_size,
            "max_client_conn": 500,
            # It refuses to run as root.
            **({"user": "nobody"} if os.geteuid() == 0 else {}),
        }
        lines = [f"{name} = {value}" for name, value in settings.items()]
        behind = f"* = host={self._behind.hostname} port={self._behind.port}"
        configuration = self.directory / "pgbouncer.ini"
        configuration.write_text("\n".join(["[databases]", behind, "[pgbouncer]", *lines, ""]))
        return Launch(
            name=self.name,
            command=(*self._command, configuration),
            cwd=self.directory,
            log=self.log,
            stop_signal=self.stop_signal,
            stop_seconds=self.stop_seconds,
        )

    def _is_ready(self) -> bool:
        return "process up: PgBouncer" in self.log.read_text(errors="replace")


def _command() -> Sequence[str | Path]:
    if installed := shutil.which("pgbouncer", path=_SYSTEM_PATH):
        return [installed]
    root = unpacked("pgbouncer")
    return ["/usr/bin/env", f"LD_LIBRARY_PATH={library_path(root)}", root / "usr" / "sbin" / "pgbouncer"]


NewPool = Callable[..., PgBouncer]
"""Returns the PgBouncer with these arguments, and starts it if necessary."""
