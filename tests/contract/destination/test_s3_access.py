"""S3 behind TLS with an authority of its own, and credentials of the AWS chain that end while a run uploads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import repeat
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.destinations.s3.client import S3Client
from pipeline_processing.destinations.s3.destination import S3Destination
from pipeline_processing.destinations.s3.errors import CredentialsExpired
from pipeline_processing.destinations.s3.session import AssumedRole
from pipeline_processing.embedded.seaweedfs import SeaweedFSServer
from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.errors import AccessDenied, DestinationUnavailable, PipelineError, SettingsError
from tests.certificates import CA, LOCAL, STRANGERS_CA, Certificate, issued
from tests.contract.destination.destination_backends import LARGE, METADATA, MIB, SMALL, Started, stage
from tests.guarded_s3 import WEB_IDENTITY, GuardedS3

ARN = "arn:aws:iam::123456789012:role/exporter"

Guarded = Callable[..., AbstractAsyncContextManager[GuardedS3]]


@pytest.fixture
def seaweedfs(servers: EmbeddedServers) -> SeaweedFSServer:
    return servers.seaweedfs


@pytest.fixture
def guarded(seaweedfs: SeaweedFSServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guarded:
    """Opens such a store. The environment trusts its authority, and has no credentials."""
    for name, text in (("ca", CA), ("stranger", STRANGERS_CA), ("token", WEB_IDENTITY)):
        (tmp_path / name).write_text(text)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca"))

    @asynccontextmanager
    async def opened(certificate: Certificate = LOCAL) -> AsyncIterator[GuardedS3]:
        async with GuardedS3(seaweedfs, certificate, tmp_path / "server") as store:
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", store.url)
            yield store

    return opened


@pytest.fixture
def web_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the token, as Kubernetes mounts it."""
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", ARN)
    monkeypatch.setenv("AWS_ROLE_SESSION_NAME", "worker")
    return tmp_path / "token"


@pytest.fixture
def bucket(seaweedfs: SeaweedFSServer) -> str:
    name = f"b-{uuid4().hex}"
    seaweedfs.create_bucket(name)
    return name


def client_of(
    store: GuardedS3, *, keys: bool = False, role: AssumedRole | None = None, learned: list[str] | None = None
) -> S3Client:
    return S3Client(
        endpoint_url=store.url,
        region=store.behind.region,
        access_key_id=store.behind.access_key_id if keys else None,
        secret_access_key=SecretStr(store.behind.secret_access_key) if keys else None,
        addressing_style="path",
        role=role,
        learned=([] if learned is None else learned).extend,
    )


def destination_in(bucket: str, client: S3Client) -> S3Destination:
    return S3Destination(
        client=client, bucket=bucket, prefix="agencies", budget=ByteBudget(64 * MIB), part_size=5 * MIB
    )


async def upload(destination: S3Destination, body: bytes = LARGE) -> None:
    artifact = await stage(
        destination, body, Started(), key=f"agency_id=7/run_id={len(body)}/records/part-00000.ndjson"
    )
    await destination.complete(artifact, metadata=METADATA)


async def test_an_authority_of_its_own(guarded: Guarded, bucket: str) -> None:
    """By botocore and past it."""
    async with guarded() as store, client_of(store, keys=True) as client:
        await upload(destination_in(bucket, client))
        await upload(destination_in(bucket, client), SMALL)
    assert len(store.signed_by) > 6


@pytest.mark.parametrize(
    ("certificate", "bundle", "error", "says"),
    [
        (LOCAL, "stranger", SettingsError, "Set AWS_CA_BUNDLE to the certificate of the authority"),
        (issued("s3.example"), "ca", SettingsError, "Use a host name that the server's certificate lists"),
        (issued("127.0.0.1", expired=True), "ca", DestinationUnavailable, "has expired.* Renew the server's"),
    ],
    ids=["unknown authority", "another name", "expired"],
)
async def test_a_server_that_is_refused(
    *,
    guarded: Guarded,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    certificate: Certificate,
    bundle: str,
    error: type[PipelineError],
    says: str,
) -> None:
    """An expired certificate may be renewed any minute, so that is tried again. The other two are settings."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / bundle))
    async with guarded(certificate) as store, client_of(store, keys=True) as client:
        with pytest.raises(error, match=says) as raised:
            await upload(destination_in(bucket, client))
    assert type(raised.value) is error
    assert store.signed_by == []


async def test_a_web_identity_is_renewed_while_a_run_uploads(guarded: Guarded, bucket: str, web_identity: Path) -> None:
    """A session with less than 15 minutes left is replaced before the next part. All of its secrets are masked."""
    learned: list[str] = []
    async with guarded() as store:
        store.session_seconds = repeat(14 * 60.0, 3)
        async with client_of(store, learned=learned) as client:
            await upload(destination_in(bucket, client))
    assert set(store.given) == {"AssumeRoleWithWebIdentity"}
    assert len(set(store.signed_by)) > 2
    assert {"t0ken-1", "t0ken-2", "t0ken-3", "t0ken-4", "s3cret-4"} <= set(learned)


async def test_a_role_is_renewed_while_a_run_uploads(guarded: Guarded, bucket: str, web_identity: Path) -> None:
    """Assumed with the chain's credentials, as in another account."""
    async with guarded() as store:
        store.session_seconds = iter([3600.0, 14 * 60.0, 14 * 60.0])
        role = AssumedRole(arn=ARN, session_name="nightly", sts_endpoint_url=store.url)
        async with client_of(store, role=role) as client:
            await upload(destination_in(bucket, client))
    assert store.given[:3] == ["AssumeRoleWithWebIdentity", "AssumeRole", "AssumeRole"]
    assert len(set(store.signed_by)) > 1


async def test_a_session_that_the_store_has_ended(guarded: Guarded, bucket: str, web_identity: Path) -> None:
    """The attempt fails with what will help, and the next one gets a new session."""
    async with guarded() as store:
        store.session_seconds = iter([14 * 60.0])
        async with client_of(store) as client:
            store.ended = {"session-1", "session-2"}
            with pytest.raises(CredentialsExpired, match=r"ExpiredToken.*This is retried"):
                await upload(destination_in(bucket, client), SMALL)
            store.ended = {"session-1"}
            await upload(destination_in(bucket, client), SMALL)


async def test_a_web_identity_that_sts_refuses(guarded: Guarded, bucket: str, web_identity: Path) -> None:
    """Told with the chain's remedy, and without the token."""
    async with guarded() as store:
        store.web_identity = "an0ther-t0ken"
        with pytest.raises(AccessDenied, match="AWS credential chain") as raised:
            async with client_of(store) as client:
                await upload(destination_in(bucket, client), SMALL)
    assert WEB_IDENTITY not in str(raised.value)
