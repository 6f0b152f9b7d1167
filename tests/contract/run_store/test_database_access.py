"""A Postgres that wants TLS, certificates and passwords: who is refused learns what to correct in the DSN."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import yaml

from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.errors import AccessDenied, DatabaseMisconfigured, PipelineError, SourceUnavailable
from pipeline_processing.postgres.client import DatabaseClient
from tests.certificates import CA, ENCRYPTED_KEY, STRANGER, STRANGERS_CA, issued
from tests.tls_postgres import TlsPostgres

PASSWORD, WRONG = "s3cret-of-app", "wr0ng-password"

SHOWN = {"expired": issued("127.0.0.1", expired=True), "elsewhere": issued("db.example")}

USERS = f"""
CREATE ROLE app LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE client LOGIN;
GRANT CREATE ON DATABASE postgres TO app, client;
GRANT CREATE ON SCHEMA public TO app;
CREATE TABLE records (id int PRIMARY KEY, agency_id int);
INSERT INTO records VALUES (1, 7), (2, 7);
GRANT SELECT ON records TO client;
CREATE TABLE exported (id int, agency_id int);
ALTER TABLE exported OWNER TO app;
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[TlsPostgres]:
    with TlsPostgres() as server:

        async def prepare() -> None:
            connection = await asyncpg.connect(server.dsn())
            await connection.execute(USERS)
            await connection.close()

        asyncio.run(prepare())
        yield server


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, postgres: TlsPostgres) -> Path:
    """A folder with authorities, certificates of clients, and passfiles."""
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "ca").write_text(CA)
    (folder / "stranger").write_text(STRANGERS_CA)
    (folder / "encrypted").write_text(ENCRYPTED_KEY)
    (folder / "rubbish").write_text("none of that")
    issued(owner="client").written(folder, "client")
    issued(owner="other").written(folder, "other")
    issued(owner="client", expired=True).written(folder, "expired")
    issued(owner="client", by=STRANGER).written(folder, "strangers")
    for name, password, mode in (("pass", PASSWORD, 0o600), ("wrong", WRONG, 0o600), ("open", PASSWORD, 0o644)):
        file = folder / name
        file.write_text(f"127.0.0.1:{postgres.port}:*:app:{password}\n")
        file.chmod(mode)
    return folder


def dsn_of(postgres: TlsPostgres, files: Path, user: str, *, password: str = "", ca: str = "ca", **options: str) -> str:
    """Return a DSN that verifies the server in full. Options that name files name those in `files`."""
    paths = {"sslrootcert": ca, **options} if ca else options
    return postgres.tls_dsn(user, password=password, **{name: files / file for name, file in paths.items()})


def shown_by(certificate: str) -> dict[str, str]:
    return {"sslcert": f"{certificate}.crt", "sslkey": f"{certificate}.key"}


async def login(dsn: str) -> asyncpg.Record:
    async with DatabaseClient(dsn=dsn, unavailable=SourceUnavailable) as client, client.connection() as connection:
        return await connection.fetchrow("SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")


@pytest.mark.parametrize(
    ("user", "options"),
    [
        ("app", {"password": PASSWORD}),
        ("app", {"passfile": "pass"}),
        ("client", shown_by("client")),
    ],
    ids=["a password", "a passfile", "a certificate"],
)
async def test_logged_in_by(postgres: TlsPostgres, files: Path, user: str, options: dict[str, str]) -> None:
    """The server is verified in full: authority, time and name."""
    assert tuple(await login(dsn_of(postgres, files, user, **options))) == (user, True)


REFUSED: dict[str, tuple[str, dict[str, str], type[PipelineError], str]] = {
    "a wrong password": ("app", {"password": WRONG}, AccessDenied, "user and password"),
    "a wrong passfile": ("app", {"passfile": "wrong"}, AccessDenied, "`passfile`"),
    "a passfile that others can read": ("app", {"passfile": "open"}, AccessDenied, "others must not be able to read"),
    "no certificate": ("client", {}, AccessDenied, "requires a valid client certificate"),
    "an expired certificate": ("client", shown_by("expired"), AccessDenied, "certificate expired.* `sslcert`"),
    "a certificate of an unknown authority": ("client", shown_by("strangers"), AccessDenied, "unknown ca.* `sslcert`"),
    "another user's certificate": ("client", shown_by("other"), AccessDenied, "certificate authentication failed"),
    "a certificate that isn't there": ("client", shown_by("nowhere"), DatabaseMisconfigured, "No such file.*`sslcert`"),
    "rubbish as a certificate": ("client", {"sslcert": "rubbish"}, DatabaseMisconfigured, "PEM form"),
    "an encrypted key": (
        *("client", {"sslcert": "client.crt", "sslkey": "encrypted"}),
        *(DatabaseMisconfigured, "`sslpassword`"),
    ),
    "a server of an unknown authority": ("app", {"ca": "stranger"}, DatabaseMisconfigured, "`sslrootcert` to the"),
    "no authority": ("app", {"ca": ""}, DatabaseMisconfigured, "names no authority to trust. Set `sslrootcert`"),
    "rubbish as an authority": ("app", {"ca": "rubbish"}, DatabaseMisconfigured, "Correct `sslrootcert`"),
}


@pytest.mark.filterwarnings("ignore:password file:UserWarning")
@pytest.mark.parametrize(("user", "options", "error", "says"), REFUSED.values(), ids=REFUSED)
async def test_refused(
    *, postgres: TlsPostgres, files: Path, user: str, options: dict[str, str], error: type[PipelineError], says: str
) -> None:
    """Without the password, and not as a server that can't be reached."""
    with pytest.raises(error, match=says) as raised:
        await refused_by(dsn_of(postgres, files, user, **options))
    assert type(raised.value) is error
    assert PASSWORD not in str(raised.value)
    assert WRONG not in str(raised.value)


async def refused_by(dsn: str) -> None:
    for _ in range(9):
        try:
            await login(dsn)
        except SourceUnavailable:  # the server may cut the connection before its alert is read; trying again is usual
            continue


@pytest.mark.parametrize(
    ("shown", "error", "says"),
    [
        ("expired", SourceUnavailable, "certificate has expired.* Renew"),
        ("elsewhere", DatabaseMisconfigured, "Use a host name that"),
    ],
)
async def test_a_server_is_refused(
    postgres: TlsPostgres, files: Path, shown: str, error: type[PipelineError], says: str
) -> None:
    """An expired certificate may be renewed any minute, so that is tried again. Another name is a setting."""
    with postgres.showing(SHOWN[shown]), pytest.raises(error, match=says) as raised:
        await login(dsn_of(postgres, files, "app", password=PASSWORD))
    assert type(raised.value) is error


async def test_a_server_without_tls_is_refused(servers: EmbeddedServers, files: Path) -> None:
    """`sslmode` may not fall back to plain text."""
    dsn = servers.postgres.dsn() + f"?sslmode=verify-full&sslrootcert={files / 'ca'}"
    with pytest.raises(DatabaseMisconfigured, match="Switch TLS on"):
        await login(dsn)


def test_a_run_over_tls(postgres: TlsPostgres, files: Path) -> None:
    """Source, history and tables destination, each with another kind of access; and a command that is refused."""
    (files / "out").mkdir()
    job = {
        "datasets": [
            {
                "name": "records",
                "source": {"postgres": {"query": "SELECT * FROM records WHERE agency_id = $1", "args": ["agency_id"]}},
            }
        ],
        "destinations": [
            {"file": {"path": str(files / "out")}},
            {"postgres": {"dsn": "target", "tables": {"records": "exported"}}},
        ],
    }
    (files / "job.yaml").write_text(yaml.safe_dump(job))
    env = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ},
        "PIPELINE_SOURCE__DSN": dsn_of(postgres, files, "client", **shown_by("client")),
        "PIPELINE_HISTORY__DSN": dsn_of(postgres, files, "app", passfile="pass"),
        "PIPELINE_SECRETS__TARGET": dsn_of(postgres, files, "app", password=PASSWORD),
        "PIPELINE_JOB_CONFIG_FILE": str(files / "job.yaml"),
    }

    def command(*words: str, **other: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "pipeline_processing.cli.main", *words]
        return subprocess.run(program, env=env | other, capture_output=True, text=True, timeout=60, check=False)

    migrated = command("migrate")
    assert migrated.returncode == 0, migrated.stderr
    done = command("run", "agency_data_job", "--agency-id", "7", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows_written"] == 2

    expired = dsn_of(postgres, files, "client", **shown_by("expired"))
    refused = command("run", "agency_data_job", "--agency-id", "7", PIPELINE_SOURCE__DSN=expired)
    assert refused.returncode == 77, refused.stderr
    assert PASSWORD not in refused.stderr
