"""
PgBouncer in front of a Postgres, for tests. It is the package of Debian or a derivative, which apt downloads and which
we unpack into the user's cache folder, once. This needs neither root nor manual steps.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import SIGTERM, Signals
from typing import ClassVar
from urllib.parse import unquote, urlsplit, urlunsplit

from pipeline_processing.embedded.kafka_jars import cache_folder, locked
from pipeline_processing.embedded.ports import LOOPBACK
from pipeline_processing.embedded.process import Launch
from pipeline_processing.embedded.server import EmbeddedServer

POOL_MODES = tuple(os.environ.get("TEST_POOL_MODES", "transaction").split(","))
"""The modes in which contract suites run. Session mode behaves much like Postgres, and has a few tests besides."""

_SYSTEM_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"


class PgBouncerMissing(Exception):
    """PgBouncer isn't available on this machine. The message says why."""


class PgBouncer(EmbeddedServer):
    """
    A pooler in front of the server of `dsn`, for all its databases.

    Each database and user gets up to `pool_size` connections to the server; further clients wait.
    """

    name: ClassVar[str] = "PgBouncer"
    stop_signal: ClassVar[Signals] = SIGTERM
    stop_seconds: ClassVar[float] = 5.0

    def __init__(self, *, dsn: str, pool_mode: str = "transaction", pool_size: int = 20) -> None:
        """`pool_mode` is `transaction` or `session`. Raises PgBouncerMissing."""
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
    root = _unpacked()
    libraries = ":".join(map(str, (root / "usr" / "lib").glob("*-linux-gnu*")))
    return ["/usr/bin/env", f"LD_LIBRARY_PATH={libraries}", root / "usr" / "sbin" / "pgbouncer"]


def _unpacked() -> Path:
    """Return the folder with the unpacked Debian package."""
    folder = cache_folder().with_name("pgbouncer")
    try:
        with locked(folder):
            if not folder.exists():
                _unpack_into(folder)
    except OSError as error:
        raise PgBouncerMissing(f"PgBouncer can't be stored in {folder}: {error}. Set XDG_CACHE_HOME.") from error
    return folder


def _unpack_into(folder: Path) -> None:
    if not all(map(shutil.which, ("apt-get", "apt-cache", "dpkg-deb"))):
        raise PgBouncerMissing("PgBouncer isn't installed, and can only be downloaded on Debian and its derivatives.")
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        scratch = Path(name)
        try:
            _download(scratch, options=())
        except PgBouncerMissing:  # missing or outdated package lists; ours can be updated without root
            options = _own_package_lists(scratch)
            subprocess.run(["apt-get", *options, "update"], capture_output=True, check=False)
            _download(scratch, options=options)
        for package in scratch.glob("*.deb"):
            _run(["dpkg-deb", "--extract", str(package), str(scratch / "complete")], cwd=scratch)
        (scratch / "complete").rename(folder)


def _download(scratch: Path, *, options: Sequence[str]) -> None:
    depends = _run(["apt-cache", *options, "depends", "--important", "pgbouncer"], cwd=scratch)
    libraries = [words[1] for words in map(str.split, depends.splitlines()) if words[:1] == ["Depends:"]]
    missing = [name for name in libraries if name.startswith("lib") and not _is_installed(name)]
    _run(["apt-get", *options, "download", "pgbouncer", *missing], cwd=scratch)


def _is_installed(package: str) -> bool:
    asked = subprocess.run(["dpkg", "--status", package], capture_output=True, check=False)
    return asked.returncode == 0


def _own_package_lists(scratch: Path) -> Sequence[str]:
    (scratch / "lists" / "partial").mkdir(parents=True)
    folders = {"Dir::State::lists": scratch / "lists", "Dir::Cache": scratch / "cache"}
    return [word for name, folder in folders.items() for word in ("-o", f"{name}={folder}")]


def _run(command: Sequence[str], *, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PgBouncerMissing(f"PgBouncer can't be downloaded: {command[0]} says {done.stderr.strip()}")
    return done.stdout


NewPool = Callable[..., PgBouncer]
"""Returns the PgBouncer with these arguments, and starts it if necessary."""
