"""Stores, proxies and portals that answer something else than an S3 store should, as the command line tells of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.acceptance.service import LARGE, Service, completion
from tests.unit.destinations.s3.recording_store import Answer, RecordingStore
from tests.watching import eventually

XHTML = "<html><body>Sign in</body></html>"


@pytest.fixture
async def store(service: Service) -> AsyncIterator[RecordingStore]:
    """In place of the service's own."""
    async with RecordingStore() as running:
        service.environment["PIPELINE_S3__ENDPOINT_URL"] = running.url
        yield running


async def run(service: Service, run_id: str) -> Any:
    """In a thread, since the store is in this one."""
    return await asyncio.to_thread(service.run, LARGE, "--run-id", run_id)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer.page(413), "HTTP 413: Request Entity Too Large. A proxy or gateway"),
        (Answer.error(400, "InvalidArgument"), "InvalidArgument (400): its words. The store must support"),
    ],
    ids=["413", "InvalidArgument"],
)
async def test_a_definite_refusal_is_a_matter_of_settings(
    service: Service, store: RecordingStore, answer: Answer, words: str
) -> None:
    """78 at the first try, with what was said, and no bug."""
    store.answers["UploadPart"] = answer

    done = await run(service, "refused-1")

    error = completion(done)["error"]
    assert (done.returncode, error["kind"], error["exit_code"]) == (78, "invalid_settings", 78)
    assert words in error["message"]
    assert completion(done)["attempt"] == 1


@pytest.mark.parametrize(
    ("operation", "answer", "kind"),
    [
        ("UploadPart", Answer.error(400, "ExpiredToken"), "access_denied"),
        ("UploadPart", Answer(200), "destination_unavailable"),
        ("PutObject", Answer.page(body=XHTML), "destination_unavailable"),
    ],
    ids=["expired token", "no ETag", "web page"],
)
async def test_what_may_pass_is_tried_again(
    service: Service, store: RecordingStore, operation: str, answer: Answer, kind: str
) -> None:
    """And everything that the run then says it has published is there."""
    store.answers[operation] = answer

    running = asyncio.create_task(run(service, "again-1"))
    await asyncio.to_thread(eventually, lambda: store.asked(operation), 30)
    await asyncio.to_thread(eventually, lambda: service.attempts("again-1")[0]["error_kind"] == kind, 30)
    store.answers.clear()
    done = await running

    assert done.returncode == 0, done.stderr
    assert completion(done)["state"] == "succeeded"
    assert [key for key in store.objects if key.endswith("run_id=again-1/_manifest.json")]
