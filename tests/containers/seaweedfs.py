"""S3 from SeaweedFS in a container."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any, ClassVar

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from testcontainers.core.container import DockerContainer

from pipeline_processing.embedded.ports import LOOPBACK
from pipeline_processing.embedded.seaweedfs import SeaweedFSServer
from tests.containers.engine import ContainerError
from tests.containers.server import ContainerServer

_PORT = 8333
_IDENTITIES = "/etc/identities.json"
_ANSWER_SECONDS = 2


class SeaweedFSContainer(ContainerServer):
    """Like the embedded one: the same keys for an administrator and a reader, and buckets that behave as on AWS."""

    name: ClassVar[str] = "SeaweedFS"
    variable: ClassVar[str] = "SEAWEEDFS_IMAGE"
    stop_seconds: ClassVar[int] = 0  # it sometimes ignores SIGTERM, and a kill loses no data

    region: ClassVar[str] = SeaweedFSServer.region
    access_key_id: ClassVar[str] = SeaweedFSServer.access_key_id
    secret_access_key: ClassVar[str] = SeaweedFSServer.secret_access_key
    readonly_access_key_id: ClassVar[str] = SeaweedFSServer.readonly_access_key_id
    readonly_secret_access_key: ClassVar[str] = SeaweedFSServer.readonly_secret_access_key

    @property
    def endpoint_url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def create_bucket(self, name: str) -> None:
        """Raises ContainerError, also if the bucket exists already."""
        try:
            self._client.create_bucket(Bucket=name)
        except (BotoCoreError, ClientError) as error:
            raise ContainerError(f"Bucket {name!r} can't be created: {error}") from error

    def _configure(self, container: DockerContainer) -> int:
        demo = _identity("demo", self.access_key_id, self.secret_access_key, "Admin")
        reader = _identity("readonly", self.readonly_access_key_id, self.readonly_secret_access_key, "Read", "List")
        container.with_copy_into_container(json.dumps({"identities": [demo, reader]}).encode(), _IDENTITIES)
        container.with_command(
            [
                "mini",
                "-dir=/data",
                f"-ip={LOOPBACK}",  # for connections between its components
                "-ip.bind=0.0.0.0",
                f"-s3.port={_PORT}",
                "-master.telemetry=false",
                "-volume.max=10000",  # each bucket takes one
                f"-s3.config={_IDENTITIES}",
                "-s3.autoCreateBucket=false",
                "-s3.allowDeleteBucketNotEmpty=false",
                "-s3.iam=false",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-webdav=false",
                "-admin.ui=false",
            ]
        )
        return _PORT

    def _is_ready(self) -> bool:
        # The list of buckets comes from the filer, so everything behind the gateway is up too.
        try:
            self._client.list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return True

    @cached_property
    def _client(self) -> Any:
        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(
                s3={"addressing_style": "path"},
                connect_timeout=_ANSWER_SECONDS,
                read_timeout=_ANSWER_SECONDS,
                retries={"total_max_attempts": 1},
            ),
        )


def _identity(name: str, access_key: str, secret_key: str, *actions: str) -> dict[str, object]:
    credentials = [{"accessKey": access_key, "secretKey": secret_key}]
    return {"name": name, "credentials": credentials, "actions": list(actions)}
