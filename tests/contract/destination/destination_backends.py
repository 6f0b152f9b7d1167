"""The destinations that one suite runs against, what tests do behind their backs, and how they write."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from pydantic import SecretStr

from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.destinations.files.destination import FileDestination
from pipeline_processing.destinations.s3.client import S3Client
from pipeline_processing.destinations.s3.destination import S3Destination
from pipeline_processing.embedded.seaweedfs import SeaweedFSServer
from pipeline_processing.model import Compression, FormatName
from pipeline_processing.plan import Artifact, UploadRef
from pipeline_processing.ports import Content, Destination, Sealed, UploadStarted
from tests.memory.destination import MemoryDestination

MIB = 1024 * 1024


class Backend(Protocol):
    """A destination, and its inside."""

    destination: Destination
    budget: ByteBudget
    keeps_metadata: bool

    def another(self) -> Destination:
        """A second destination on the same place, as another worker has it."""

    async def visible(self) -> set[str]:
        """Keys that a reader who lists can see."""

    async def read(self, key: str) -> tuple[bytes, Mapping[str, str]]:
        """An object as a reader gets it."""

    async def pending(self) -> int:
        """Uploads that are neither completed nor aborted."""

    async def put(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        """An object from somebody else."""


class MemoryBackend:
    keeps_metadata = True

    def __init__(self) -> None:
        self.budget = ByteBudget(1)
        self.memory = MemoryDestination()
        self.destination: Destination = self.memory

    def another(self) -> Destination:
        return self.memory

    async def visible(self) -> set[str]:
        return set(self.memory.objects)

    async def read(self, key: str) -> tuple[bytes, Mapping[str, str]]:
        return self.memory.objects[key]

    async def pending(self) -> int:
        return len(self.memory.open_uploads)

    async def put(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        self.memory.objects[key] = (body, metadata)


class FileBackend:
    keeps_metadata = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.budget = ByteBudget(1)
        self.destination: Destination = self.another()

    def another(self) -> Destination:
        return FileDestination(path=self.path)

    async def visible(self) -> set[str]:
        files = [path.relative_to(self.path) for path in self.path.rglob("*") if path.is_file()]
        return {str(path) for path in files if not path.parts[0].startswith(".")}

    async def read(self, key: str) -> tuple[bytes, Mapping[str, str]]:
        return (self.path / key).read_bytes(), {}

    async def pending(self) -> int:
        return len([path for path in (self.path / ".staging").glob("*") if path.name != "lock"])

    async def put(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        (self.path / key).parent.mkdir(parents=True, exist_ok=True)
        (self.path / key).write_bytes(body)


@dataclass
class S3Backend:
    client: S3Client
    raw: Any  # an aiobotocore client, whose methods are made at run time
    bucket: str
    prefix: str = "agencies"
    keeps_metadata: bool = True

    def __post_init__(self) -> None:
        self.budget = ByteBudget(64 * MIB)
        self.destination: Destination = self.another()

    def another(self, **options: Any) -> Destination:
        defaults: dict[str, Any] = {"budget": self.budget, "part_size": 5 * MIB}
        return S3Destination(client=self.client, bucket=self.bucket, prefix=self.prefix, **{**defaults, **options})

    async def visible(self) -> set[str]:
        answer = await self.raw.list_objects_v2(Bucket=self.bucket)
        return {each["Key"].removeprefix(f"{self.prefix}/") for each in answer.get("Contents", [])}

    async def read(self, key: str) -> tuple[bytes, Mapping[str, str]]:
        answer = await self.raw.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}")
        return await answer["Body"].read(), answer["Metadata"]

    async def content_type(self, key: str) -> str:
        head = await self.raw.head_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}")
        return str(head["ContentType"])

    async def pending(self) -> int:
        return len([upload async for upload in self.client.pending_uploads(bucket=self.bucket)])

    async def put(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        await self.raw.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}", Body=body, Metadata=dict(metadata))


def client_of(server: SeaweedFSServer, *, readonly: bool = False, port: int | None = None) -> S3Client:
    """A client of the server, or of a proxy on that port."""
    return S3Client(
        endpoint_url=f"http://127.0.0.1:{port}" if port else server.endpoint_url,
        region=server.region,
        access_key_id=server.readonly_access_key_id if readonly else server.access_key_id,
        secret_access_key=SecretStr(server.readonly_secret_access_key if readonly else server.secret_access_key),
        addressing_style="path",
    )


@asynccontextmanager
async def s3_backend(server: SeaweedFSServer) -> AsyncIterator[S3Backend]:
    bucket = f"b-{uuid4().hex}"
    server.create_bucket(bucket)
    async with client_of(server) as client:
        # The raw client inside: a second one would take half a second to load botocore's model of S3 again.
        yield S3Backend(client=client, raw=client._client, bucket=bucket)


class Started(list[UploadRef]):
    """An `on_started` that remembers."""

    async def __call__(self, upload: UploadRef) -> None:
        self.append(upload)


KEY = "agency_id=7/run_id=r-1/records/part-00000.ndjson"
CONTENT = Content(dataset="records")
METADATA = {"run-id": "r-1", "agency-id": "7", "attempt": "1", "trace-id": "0" * 32}
SMALL = b'{"id": 1}\n' * 1000
LARGE = array("Q", range(17 * MIB // 8)).tobytes() + b"tail"


def artifact(sealed: Sealed, key: str = KEY) -> Artifact:
    """As the stored plan has it, after a trip through JSON."""
    made = Artifact(
        key=key,
        dataset="records",
        format=FormatName.NDJSON,
        compression=Compression.NONE,
        rows=1,
        size=sealed.size,
        sha256=sealed.sha256,
        staged=sealed.staged,
    )
    return Artifact.model_validate_json(made.model_dump_json())


async def stage(
    destination: Destination,
    body: bytes,
    started: UploadStarted,
    key: str = KEY,
    metadata: dict[str, str] = METADATA,
    piece: int = 700_001,
    content: Content = CONTENT,
) -> Artifact:
    async with destination.open(key, content, metadata=metadata, on_started=started) as upload:
        for start in range(0, len(body), piece):
            await upload.write(body[start : start + piece])
        sealed = await upload.seal()
    return artifact(sealed, key)
