"""A destination that writes as an assumed role, for longer than one of its sessions lasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline_processing.destinations.s3.client import S3Client
from pipeline_processing.destinations.s3.errors import ObjectMissing
from pipeline_processing.destinations.s3.session import AssumedRole
from pipeline_processing.errors import AccessDenied, DestinationUnavailable, PipelineError, SettingsError, Throttled
from tests.unit.destinations.s3.recording_store import Answer, RecordingStore

ARN = "arn:aws:iam::123456789012:role/exporter"


@pytest.fixture
async def store() -> AsyncIterator[RecordingStore]:
    async with RecordingStore() as running:
        yield running


def role_at(store: RecordingStore, *, external_id: str | None = None) -> AssumedRole:
    return AssumedRole(arn=ARN, session_name="nightly", external_id=external_id, sts_endpoint_url=store.url)


async def look(client: S3Client) -> None:
    with pytest.raises(ObjectMissing):
        await client.head_object(bucket="b", key="k")


@pytest.mark.parametrize("external_id", [None, "agreed"])
async def test_a_role_is_assumed_once_and_signs_all_requests(store: RecordingStore, external_id: str | None) -> None:
    """With the user's own credentials, the session's name, and the external id if there is one."""
    async with store.client(role=role_at(store, external_id=external_id)) as client:
        assert store.requests == []
        await asyncio.gather(*(look(client) for _ in range(5)))
        await look(client)

    (assumed,) = store.asked("AssumeRole")
    assert assumed.access_key == "the-user"
    assert (assumed.form["RoleArn"], assumed.form["RoleSessionName"]) == (ARN, "nightly")
    assert assumed.form.get("ExternalId") == external_id
    looks = store.asked("HeadObject")
    assert {request.access_key for request in looks} == {"session-1"}
    assert {request.headers["x-amz-security-token"] for request in looks} == {"token-1"}


async def test_without_keys_the_usual_chain_is_trusted(store: RecordingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the environment's, as with keys of a container or a machine."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-key")
    learned: list[str] = []
    async with S3Client(
        endpoint_url=store.url, region="us-east-1", role=role_at(store), learned=learned.extend
    ) as client:
        await look(client)
    assert {"a-secret-key", "token-1"} <= set(learned)  # to be masked
    assert [request.access_key for request in store.asked("AssumeRole")] == ["of-the-environment"]
    assert [request.access_key for request in store.asked("HeadObject")] == ["session-1"]


async def test_without_any_credentials_there_is_nobody_to_trust(
    store: RecordingStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Known when the client is opened, with the remedy."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    client = S3Client(endpoint_url=store.url, region="us-east-1", role=role_at(store))
    with pytest.raises(AccessDenied, match="PIPELINE_S3__ACCESS_KEY_ID"):
        await client.__aenter__()


async def test_a_session_is_renewed_before_it_ends(store: RecordingStore) -> None:
    """One with less than 15 minutes left isn't good for much longer: the next request brings a new one."""
    store.session_seconds = iter([14 * 60.0, 3600.0])
    async with store.client(role=role_at(store)) as client:
        for _ in range(3):
            await look(client)
    assert [request.access_key for request in store.asked("HeadObject")] == ["session-1", "session-2", "session-2"]


async def test_while_it_can_a_session_goes_on_without_sts(store: RecordingStore) -> None:
    """An outage of STS is no matter as long as there are ten minutes left; then it is."""
    store.session_seconds = iter([14 * 60.0])
    async with store.client(role=role_at(store)) as client:
        await look(client)
        store.refusal = (503, "ServiceUnavailable")
        await look(client)
    assert [request.access_key for request in store.asked("HeadObject")] == ["session-1", "session-1"]

    store.refusal, store.session_seconds = None, iter([9 * 60.0])
    async with store.client(role=role_at(store)) as client:
        await look(client)
        store.refusal = (503, "ServiceUnavailable")
        with pytest.raises(DestinationUnavailable, match="assume the role"):
            await look(client)


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        ((403, "AccessDenied"), AccessDenied),
        ((403, "InvalidClientTokenId"), AccessDenied),
        ((400, "ExpiredTokenException"), AccessDenied),
        ((400, "ValidationError"), SettingsError),
        ((400, "MalformedPolicyDocument"), SettingsError),
        ((400, "Throttling"), Throttled),
        ((503, "ServiceUnavailable"), DestinationUnavailable),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else value.__name__,
)
async def test_a_refusal_says_what_to_do_next(
    store: RecordingStore, refusal: tuple[int, str], error: type[PipelineError]
) -> None:
    """With the role and the remedy, and without the secret."""
    store.refusal = refusal
    async with store.client(role=role_at(store)) as client:
        with pytest.raises(error, match=r"role/exporter.*not you.*external_id") as caught:
            await client.head_object(bucket="b", key="k")
    assert "a-secret-key" not in str(caught.value)
    assert store.asked("HeadObject") == []


async def test_an_expired_identity_is_tried_again(store: RecordingStore) -> None:
    """The identity's own credentials may be renewed, too."""
    store.refusal = (403, "ExpiredTokenException")
    async with store.client(role=role_at(store)) as client:
        with pytest.raises(AccessDenied) as caught:
            await client.head_object(bucket="b", key="k")
    assert caught.value.retryable


@pytest.mark.parametrize(
    "answer",
    [
        Answer.page(body="<html><body>x</body></html>"),
        Answer(200),
        Answer.page(302),
        Answer(200, "<a><AssumeRoleResult/></a>"),
    ],
    ids=["web page", "nothing", "redirect", "no credentials"],
)
async def test_what_isnt_from_sts_is_tried_again(store: RecordingStore, answer: Answer) -> None:
    """A portal's page has no credentials in it."""
    store.answers["AssumeRole"] = answer
    async with store.client(role=role_at(store)) as client:
        with pytest.raises(DestinationUnavailable, match="assume the role"):
            await client.head_object(bucket="b", key="k")


async def test_a_session_token_is_used_to_assume_the_role(store: RecordingStore) -> None:
    """The user's own credentials may be temporary."""
    async with store.client(role=role_at(store), session_token="of-the-user") as client:
        await look(client)
    assert [request.headers["x-amz-security-token"] for request in store.asked("AssumeRole")] == ["of-the-user"]


@pytest.mark.parametrize("token", [None, "of-the-settings"])
async def test_a_session_token_belongs_to_its_key(
    store: RecordingStore, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    """With key and secret from the settings, nothing is taken from the environment."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"):
        monkeypatch.setenv(name, "of-the-environment")
    async with store.client(session_token=token) as client:
        await look(client)
    (request,) = store.asked("HeadObject")
    assert (request.access_key, request.headers.get("x-amz-security-token")) == ("the-user", token)


async def test_an_sts_that_is_down_is_unavailable() -> None:
    """As a store that is."""
    async with RecordingStore() as store:
        role = role_at(store)
        client = store.client(role=role)
    async with client:
        with pytest.raises(DestinationUnavailable, match="assume the role"):
            await client.head_object(bucket="b", key="k")


async def test_a_session_that_has_ended_already_points_at_the_clock(store: RecordingStore) -> None:
    """Nothing else gives one of the past."""
    store.session_seconds = iter([-5.0])
    async with store.client(role=role_at(store)) as client:
        with pytest.raises(AccessDenied, match="clock"):
            await client.head_object(bucket="b", key="k")
