"""When the outcome of a completion is unknown, what stands there decides."""

from __future__ import annotations

import pytest

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.destinations.s3.client import ObjectHead
from pipeline_processing.destinations.s3.destination import S3Destination
from pipeline_processing.destinations.s3.errors import AlreadyThere, ConditionalConflict, UploadGone
from pipeline_processing.destinations.s3.objects import Fingerprint, crc32_of, sha256_of
from pipeline_processing.destinations.s3.parts import MIB
from pipeline_processing.errors import (
    AccessDenied,
    ConflictingObjects,
    DestinationUnavailable,
    PipelineError,
    SettingsError,
    Throttled,
    UploadMissing,
)
from pipeline_processing.model import (
    Artifact,
    Compression,
    FormatName,
    MultipartUpload,
    StagedFile,
    StagedTable,
    UploadedPart,
)
from tests.unit.destinations.s3.fake_s3 import FakeS3

METADATA = {"run-id": "r", "attempt": "3"}
STAGED = MultipartUpload(
    upload_id="u", parts=(UploadedPart(number=1, etag=f'"{1:032x}"', crc32=crc32_of(b"x"), sha256=sha256_of(b"x")),)
)
ARTIFACT = Artifact(
    key="k",
    dataset="d",
    format=FormatName.CSV,
    compression=Compression.NONE,
    rows=1,
    size=10,
    sha256="0" * 64,
    staged=STAGED,
)
OURS = ObjectHead(size=10, metadata=METADATA, etag=None, crc32=Fingerprint.of(STAGED).crc32)
UNKNOWN = [UploadGone("x"), AlreadyThere("x"), ConditionalConflict("x"), DestinationUnavailable("x"), Throttled("x")]


def destination_of(client: FakeS3) -> S3Destination:
    return S3Destination(client=client, bucket="b", prefix="", budget=ByteBudget(256 * MIB))


@pytest.mark.parametrize("answer", UNKNOWN, ids=repr)
async def test_ours_means_done(answer: Exception) -> None:
    """Whatever the answer was: it had been completed."""
    client = FakeS3()
    client.failures["complete"], client.head = answer, OURS
    await destination_of(client).complete(ARTIFACT, metadata=METADATA)


@pytest.mark.parametrize("answer", UNKNOWN, ids=repr)
@pytest.mark.parametrize(
    "other",
    [
        ObjectHead(size=11, metadata=METADATA, etag=None, crc32=OURS.crc32),
        ObjectHead(size=10, metadata=METADATA, etag=None, crc32="AAAAAA==-1"),
        ObjectHead(size=10, metadata={**METADATA, "attempt": "2"}, etag=None, crc32=OURS.crc32),
        ObjectHead(size=10, metadata={}, etag=None, crc32=OURS.crc32),
        ObjectHead(size=10, metadata=METADATA, etag=None, crc32=None, sha256=sha256_of(b"another")),
    ],
    ids=["size", "checksum", "attempt", "no metadata", "SHA-256"],
)
async def test_another_object_is_a_conflict(answer: Exception, other: ObjectHead) -> None:
    """By run, attempt, size or checksum."""
    client = FakeS3()
    client.failures["complete"], client.head = answer, other
    with pytest.raises(ConflictingObjects):
        await destination_of(client).complete(ARTIFACT, metadata=METADATA)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (UploadGone("x"), UploadMissing),
        (AlreadyThere("x"), DestinationUnavailable),
        (ConditionalConflict("x"), DestinationUnavailable),
        (DestinationUnavailable("x"), DestinationUnavailable),
        (Throttled("x"), Throttled),
        (AccessDenied("x"), AccessDenied),
    ],
)
async def test_with_nothing_there_the_answer_decides(answer: Exception, error: type[PipelineError]) -> None:
    """Only an upload that is gone, with no object seen after that, is missing; all else is tried again."""
    client = FakeS3()
    client.failures["complete"] = answer
    with pytest.raises(error):
        await destination_of(client).complete(ARTIFACT, metadata=METADATA)


@pytest.mark.parametrize("answer", UNKNOWN, ids=repr)
async def test_without_a_look_nothing_is_concluded(answer: Exception) -> None:
    """An upload that is gone is not missing while nobody can see whether its object is there."""
    client = FakeS3()
    client.failures.update({"complete": answer, "head": DestinationUnavailable("look")})
    with pytest.raises(DestinationUnavailable, match="look"):
        await destination_of(client).complete(ARTIFACT, metadata=METADATA)


@pytest.mark.parametrize("staged", [StagedFile(path=".staging/x"), StagedTable(table="x")], ids=["file", "table"])
async def test_a_plan_for_another_place_isnt_completed_in_a_bucket(staged: StagedFile | StagedTable) -> None:
    """The destination was changed while the run was prepared; nothing is deleted either."""
    client = FakeS3()
    client.head = OURS
    artifact = ARTIFACT.model_copy(update={"staged": staged})
    with pytest.raises(SettingsError, match="PIPELINE_DESTINATION"):
        await destination_of(client).complete(artifact, metadata=METADATA)
    await destination_of(client).delete(artifact, metadata=METADATA)
