"""Uploads of many runs to several destinations draw from one budget, and never wait for one another for good."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.destinations.s3.destination import S3Destination
from pipeline_processing.destinations.s3.parts import MIB, SMALLEST_PART, PartSizes
from pipeline_processing.destinations.s3.upload import S3Upload, Target
from pipeline_processing.errors import SettingsError
from pipeline_processing.plan import UploadRef
from pipeline_processing.ports import Content
from tests.properties import examples
from tests.unit.destinations.s3.fake_s3 import FakeS3

PART = 10


async def ignore(upload: UploadRef) -> None:
    pass


def upload_to(client: FakeS3, budget: ByteBudget) -> S3Upload:
    return S3Upload(
        client=client,
        target=Target(bucket="b", key="k", object_key="k", content_type="text/csv", metadata={}),
        on_started=ignore,
        budget=budget,
        sizes=PartSizes(first=PART, largest=PART),
        part_concurrency=2,
        inline_limit=5,
    )


async def a_run(uploads: list[S3Upload], choose: random.Random) -> None:
    """As a dataset is written: a few bytes to one upload after the other, all of them sealed before any is left."""
    for upload in uploads:
        await upload.__aenter__()
    for _ in range(choose.randrange(30)):
        await choose.choice(uploads).write(bytes(choose.randrange(1, 25)))
    for upload in uploads:
        await upload.seal()
    await asyncio.sleep(0)
    for upload in uploads:
        await upload.__aexit__(None, None, None)


async def all_runs(*, runs: int, uploads_per_run: int, shares: int, seed: int) -> ByteBudget:
    choose, client = random.Random(seed), FakeS3()
    budget = ByteBudget(shares * PART)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for _ in range(runs):
            group.create_task(a_run([upload_to(client, budget) for _ in range(uploads_per_run)], choose))
    return budget


@given(runs=st.integers(1, 6), uploads_per_run=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
@examples(150)
def test_all_runs_end_with_the_shares_that_part_sizes_count(runs: int, uploads_per_run: int, seed: int) -> None:
    """In whatever order they write, with the smallest budget that is allowed for so many."""
    shares = fewest_shares(runs=runs, uploads_per_run=uploads_per_run)
    budget = asyncio.run(all_runs(runs=runs, uploads_per_run=uploads_per_run, shares=shares, seed=seed))
    assert budget.reserved == 0


def fewest_shares(*, runs: int, uploads_per_run: int) -> int:
    """How many parts the smallest budget that isn't refused has room for."""
    for shares in range(1, 100):
        with suppress(SettingsError):
            budget = ByteBudget(shares * SMALLEST_PART)
            PartSizes.within(budget, part_size=8 * MIB, runs=runs, uploads_per_run=uploads_per_run)
            return shares
    raise AssertionError("every budget is refused")


async def test_with_one_share_less_all_may_wait_for_one_another() -> None:
    """Two runs hold half a part of each upload but one, and no share is left: the arithmetic has nothing to spare."""
    client, budget = FakeS3(), ByteBudget(4 * PART)
    runs = [[upload_to(client, budget) for _ in range(3)] for _ in range(2)]
    for uploads in runs:
        for upload in uploads[:2]:
            await upload.write(b"half")

    waiting = [asyncio.create_task(uploads[2].write(b"more")) for uploads in runs]
    done, _ = await asyncio.wait(waiting, timeout=0.05)
    assert not done

    assert fewest_shares(runs=2, uploads_per_run=3) == 5
    budget.limit += PART
    budget.release(0)  # looks who may go on
    await asyncio.wait(waiting, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for upload in [upload for uploads in runs for upload in uploads]:
        await upload.__aexit__(None, None, None)
    assert budget.reserved == 0


async def test_two_destinations_on_one_budget_cut_alike() -> None:
    """Told the same numbers, each takes parts that leave the other room; an upload to both of them ends."""
    client, budget = FakeS3(), ByteBudget(3 * SMALLEST_PART)
    first, second = (
        S3Destination(client=client, bucket=bucket, prefix="", budget=budget, runs=1, uploads_per_run=3)
        for bucket in ("b-1", "b-2")
    )
    content = Content(dataset="records")
    body = bytes(MIB)
    async with (
        asyncio.timeout(30),
        first.open("rows", content, metadata={}, on_started=ignore) as rows,
        second.open("rows", content, metadata={}, on_started=ignore) as rows_again,
        first.open("rejected", content, metadata={}, on_started=ignore) as rejected,
    ):
        for _ in range(12):
            for upload in (rows, rows_again, rejected):
                await upload.write(body)
        sealed = [await upload.seal() for upload in (rows, rows_again, rejected)]
    assert [each.size for each in sealed] == [12 * MIB] * 3
    assert [len(parts) for parts in client.uploads.values()] == [3, 3, 3]
    assert budget.peak <= budget.limit
    assert budget.reserved == 0
