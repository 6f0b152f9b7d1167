"""Each thing that an S3 store may lack is found, by name, behind a proxy that takes it away from a real one."""

from __future__ import annotations

from collections.abc import Set
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from pydantic import SecretStr

from pipeline_processing.destinations.s3.client import s3_client
from pipeline_processing.destinations.s3.options import S3DestinationConfig
from pipeline_processing.destinations.s3.strict import StrictS3Client
from pipeline_processing.doctor.checking import Finding, Skipped, examined
from pipeline_processing.doctor.s3 import CHECKS, Bucket, doctors_place
from pipeline_processing.embedded.seaweedfs import SeaweedFSServer
from pipeline_processing.embedded.servers import EmbeddedServers
from pipeline_processing.errors import ForeignPrefix
from pipeline_processing.settings.settings import S3Settings
from tests.contract.doctor.lossy_store import Loss, lossy_store, refusal, refusing, rules, without_uploads


@pytest.fixture(scope="module")
def store(servers: EmbeddedServers) -> SeaweedFSServer:
    return servers.seaweedfs


@pytest.fixture(scope="module")
def bucket(store: SeaweedFSServer) -> str:
    name = f"doctor-{uuid4().hex[:12]}"
    store.create_bucket(name)
    return name


async def examine(
    store: SeaweedFSServer,
    bucket: str,
    *,
    names: Set[str] | None = None,
    longest: timedelta | None = None,
    **settings: Any,
) -> dict[str, Finding]:
    """The findings by check, or only of those with these names. What could be removed is removed."""
    checks = [check for check in CHECKS if names is None or check.name in names]
    connection = {
        "endpoint_url": store.endpoint_url,
        "region": store.region,
        "access_key_id": SecretStr(store.access_key_id),
        "secret_access_key": SecretStr(store.secret_access_key),
        "addressing_style": "path",
        **settings,
    }
    options = S3DestinationConfig(bucket=bucket, prefix="some/where")

    async def verify() -> None:
        if longest == timedelta():
            raise ForeignPrefix("It belongs to another.")
        raise Skipped("no history")

    async def longest_run() -> timedelta | None:
        return longest

    async with s3_client(S3Settings.model_construct(**connection), options, kind=StrictS3Client) as client:
        place = Bucket(client, options, verify=verify, longest_run=longest_run)
        async with doctors_place(place):
            return {each.check: each for each in await examined("store", checks, place)}


def without_conditions(request: web.Request) -> web.Response | None:
    return refusal(501, "NotImplemented") if "If-None-Match" in request.headers else None


def swallowing_aborts(request: web.Request) -> web.Response | None:
    return web.Response(status=204) if request.method == "DELETE" and "uploadId" in request.query else None


def swallowing_deletes(request: web.Request) -> web.Response | None:
    return web.Response(status=204) if request.method == "DELETE" and not request.query else None


def forgetting(request: web.Request) -> web.Response | None:
    return web.Response(status=404) if request.method == "HEAD" else None


LOSSES: dict[str, tuple[Loss, set[str], int]] = {
    "conditions are ignored": (Loss(strip=("if-none-match",)), {"conditional put", "conditional complete"}, 78),
    "conditions are refused": (Loss(answers=without_conditions), {"conditional put", "conditional complete"}, 78),
    "checksums are dropped": (
        Loss(strip=("x-amz-checksum-", "x-amz-sdk-checksum")),
        {"checksums told", "part checksums", "whole checksums"},
        78,
    ),
    "metadata is dropped": (Loss(strip=("x-amz-meta-",)), {"metadata"}, 78),
    "objects are nowhere": (Loss(answers=forgetting), {"metadata"}, 78),
    "uploads may not be aborted": (Loss(answers=refusing("DELETE", "uploadId")), {"abort", "delete"}, 77),
    "aborts do nothing": (Loss(answers=swallowing_aborts), {"abort", "delete"}, 78),
    "uploads may not be listed": (Loss(answers=refusing("GET", "uploads")), {"listing", "delete"}, 77),
    "uploads aren't listed": (Loss(answers=without_uploads), {"listing"}, 78),
    "objects may not be deleted": (Loss(answers=refusing("DELETE", None)), {"delete"}, 77),
    "deletes do nothing": (Loss(answers=swallowing_deletes), {"delete"}, 78),
    "no multipart": (
        Loss(answers=refusing("POST", "uploads", 501, "NotImplemented")),
        {"multipart", "part checksums", "whole checksums", "conditional complete", "listing", "abort"},
        78,
    ),
    "rules that are too fast": (Loss(answers=rules("some/", 1)), {"lifecycle"}, 78),
}


@pytest.mark.parametrize(("loss", "missing", "code"), LOSSES.values(), ids=LOSSES)
async def test_a_loss_is_found(store: SeaweedFSServer, bucket: str, loss: Loss, missing: set[str], code: int) -> None:
    """With what it costs; and what can be removed is removed."""
    names = missing | {"reads", "delete"}
    async with lossy_store(store, loss) as url:
        found = await examine(store, bucket, names=names, longest=timedelta(hours=30), endpoint_url=url)

    wrong = {name: each for name, each in found.items() if each.state == "missing"}
    assert wrong.keys() == missing, wrong
    assert max((each.exit_code for each in found.values()), default=0) == code
    assert all(each.cost and each.detail for each in wrong.values())
    assert {each.state for each in found.values()} <= {"ok", "missing"}


async def test_a_rule_that_is_slow_enough(store: SeaweedFSServer, bucket: str) -> None:
    """Of this prefix; and nothing else is missing, even behind a proxy."""
    async with lossy_store(store, Loss(answers=rules("some/where", 7))) as url:
        found = await examine(store, bucket, longest=timedelta(hours=30), endpoint_url=url)
    assert {name: each.state for name, each in found.items() if each.state != "ok"} == {"installation": "skipped"}
    assert (found["lifecycle"].state, found["lifecycle"].detail) == (
        "ok",
        "a rule removes incomplete uploads after 7 d",
    )


async def test_a_bucket_without_a_rule(store: SeaweedFSServer, bucket: str) -> None:
    """It is said what to do, and no reason to fail."""
    async with lossy_store(store, Loss(answers=rules("elsewhere/", 1))) as url:
        found = await examine(store, bucket, names={"reads", "lifecycle"}, endpoint_url=url)
    assert (found["lifecycle"].state, found["lifecycle"].exit_code) == ("advice", 0)
    assert "AbortIncompleteMultipartUpload" in found["lifecycle"].remedy


@pytest.mark.parametrize(
    ("settings", "bucket_name", "code"),
    [
        ({"secret_access_key": SecretStr("wrong")}, None, 77),
        ({}, "no-such-bucket", 78),
    ],
    ids=["wrong key", "no bucket"],
)
async def test_a_store_that_can_not_be_used(
    store: SeaweedFSServer, bucket: str, settings: dict[str, Any], bucket_name: str | None, code: int
) -> None:
    """One finding, and the rest isn't tried."""
    found = list((await examine(store, bucket_name or bucket, **settings)).values())
    assert (found[0].state, found[0].exit_code) == ("missing", code)
    assert {each.state for each in found[1:]} == {"skipped"}


async def test_another_installation(store: SeaweedFSServer, bucket: str) -> None:
    """What the destination itself refuses at the start."""
    found = await examine(store, bucket, names={"reads", "installation"}, longest=timedelta())
    assert (found["installation"].state, found["installation"].exit_code) == ("missing", 78)
