"""A Postgres with TLS, which the wheel's lacks: the installed one, else Debian's, unpacked into the cache folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from signal import SIGHUP
from typing import ClassVar

from pipeline_processing.embedded.ports import LOOPBACK
from pipeline_processing.embedded.postgres import PostgresServer
from pipeline_processing.embedded.process import Launch
from tests.certificates import CA, LOCAL, Certificate
from tests.debian import library_path, unpacked
from tests.watching import eventually

_INSTALLS = "usr/lib/postgresql/*/bin/postgres"
_PARTS = ("lib", "usr/lib", "usr/share/postgresql", "usr/share/postgresql-common")

_HBA = f"""\
host    all pipeline {LOOPBACK}/32 trust
hostssl all app      {LOOPBACK}/32 scram-sha-256
hostssl all client   {LOOPBACK}/32 cert
"""


class TlsPostgres(PostgresServer):
    """
    Of its users, `app` needs a password, and `client` a certificate with this name; both only over TLS.

    Raises PackageMissing.
    """

    _locale: ClassVar[Sequence[str]] = ("--locale=C",)  # older versions have no provider of their own

    def __init__(self) -> None:
        self._root = Path("/")
        if not any(self._root.glob(_INSTALLS)):
            self._root = unpacked("postgresql")
        super().__init__(install=_newest(self._root))

    def tls_dsn(self, user: str, *, password: str = "", database: str = "postgres", **options: object) -> str:
        """Return a DSN with these options of libpq. Without other ones, it verifies the server in full."""
        query = "&".join(f"{name}={value}" for name, value in {"sslmode": "verify-full", **options}.items())
        login = f"{user}:{password}" if password else user
        return f"postgresql://{login}@{LOOPBACK}:{self.port}/{database}?{query}"

    @contextmanager
    def showing(self, certificate: Certificate) -> Iterator[None]:
        """Show another certificate to new clients of this block."""
        self._show(certificate)
        try:
            yield
        finally:
            self._show(LOCAL)

    def _show(self, certificate: Certificate) -> None:
        self._write_certificate(certificate)
        reloads = self._reloads()
        os.kill(self.pid, SIGHUP)
        eventually(lambda: self._reloads() > reloads, seconds=10)

    def _reloads(self) -> int:
        return self.log.read_text(errors="replace").count("reloading configuration files")

    def _prepare(self) -> None:
        super()._prepare()
        (self._data / "pg_hba.conf").write_text(_HBA)
        with (self._data / "postgresql.conf").open("a") as file:
            file.write("ssl = on\nssl_ca_file = 'ca.crt'\n")
        self._write(CA, "ca.crt")
        self._write_certificate(LOCAL)

    def _write_certificate(self, certificate: Certificate) -> None:
        self._write(certificate.certificate, "server.crt")
        self._write(certificate.key, "server.key")

    def _write(self, text: str, name: str) -> None:
        path = self._data / name
        path.write_text(text)
        path.chmod(0o600)
        if self._account is not None:
            os.chown(path, *self._account)

    def _as_account(self, program: str, *arguments: str) -> Launch:
        launch = super()._as_account(program, *arguments)
        if self._root == Path("/"):
            return launch
        return replace(launch, command=("/usr/bin/env", f"LD_LIBRARY_PATH={library_path(self._root)}", *launch.command))

    def _copy_install(self) -> None:
        copy = self.directory / "debian"
        for part in _PARTS:
            if (self._root / part).is_dir():
                shutil.copytree(self._root / part, copy / part, symlinks=True)
        self._root, self._install = copy, _newest(copy)


def _newest(root: Path) -> Path:
    return max(root.glob(_INSTALLS), key=lambda path: float(path.parent.parent.name)).parent.parent
