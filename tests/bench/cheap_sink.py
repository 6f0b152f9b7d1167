"""
An S3 endpoint that costs next to nothing: it discards what it is sent, so that a benchmark measures the client.

    python -m tests.bench.cheap_sink

It prints its URL, and stops when its standard input ends. It takes any signature and any bucket, and spans of traces.
It knows the sizes, metadata and checksums of its objects, but not their bytes, except of the mark of an installation.
`GET /-/counts` tells how many requests of each kind it has answered since the last time, and how many bytes they
brought.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import urlopen

import uvloop

_BUFFER = 1024 * 1024
_LONGEST_HEAD = 64 * 1024
_KEPT = ("x-amz-meta-", "x-amz-checksum-", "content-type")
_KEPT_BODIES = "/_installation.json"


@dataclass(frozen=True, slots=True)
class CheapSink:
    """A sink that runs in a process of its own."""

    url: str
    pid: int

    @property
    def environment(self) -> dict[str, str]:
        """The settings of a service that writes to it."""
        return {
            "PIPELINE_S3__ENDPOINT_URL": self.url,
            "PIPELINE_S3__REGION": "us-east-1",
            "PIPELINE_S3__ACCESS_KEY_ID": "bench",
            "PIPELINE_S3__SECRET_ACCESS_KEY": "bench-secret",
            "PIPELINE_S3__ADDRESSING_STYLE": "path",
        }

    def counts(self) -> dict[str, int]:
        """Return requests by operation, and `bytes`, since the last call."""
        with urlopen(f"{self.url}/-/counts") as answer:
            counts: dict[str, int] = json.load(answer)
        return counts

    def cpu_seconds(self) -> float:
        """Return the processor time that it has used."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def cheap_sink() -> Iterator[CheapSink]:
    """Run a sink inside the block."""
    command = [sys.executable, "-m", "tests.bench.cheap_sink"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield CheapSink(url=process.stdout.readline().strip(), pid=process.pid)


@dataclass(frozen=True, slots=True)
class _Stored:
    """What is known of an object."""

    size: int
    headers: Mapping[str, str]
    body: bytes | None


class _Store:
    """The objects and uploads of all connections."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._objects: dict[str, _Stored] = {}
        self._uploads: dict[str, tuple[dict[str, str], Counter[int]]] = {}

    def answer(self, method: str, target: str, headers: Mapping[str, str], size: int, body: bytes | None) -> bytes:
        """Return the whole answer to a request whose body had `size` bytes."""
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query, keep_blank_values=True)
        key = unquote(path)
        if key == "/-/counts":
            counts, self.counts = self.counts, Counter()
            return _response(200, json.dumps(counts).encode())
        self.counts["bytes"] += size
        operation = _operation(method, key, query)
        self.counts[operation] += 1
        upload_id = query.get("uploadId", [""])[0]
        match operation:
            case "ExportTraces":
                return _response(200)
            case "PutObject" | "CompleteMultipartUpload" if "if-none-match" in headers and key in self._objects:
                return _error(412, "PreconditionFailed")
            case "PutObject":
                self._objects[key] = _Stored(size, _kept(headers), body if key.endswith(_KEPT_BODIES) else None)
                return _response(200, headers={"ETag": '"0"', **_checksums(headers)})
            case "CreateMultipartUpload":
                upload_id = f"upload-{len(self._uploads)}"
                self._uploads[upload_id] = (_kept(headers), Counter())
                return _document("InitiateMultipartUploadResult", {"UploadId": upload_id}, _checksums(headers))
            case "UploadPart" | "CompleteMultipartUpload" | "AbortMultipartUpload" if upload_id not in self._uploads:
                return _error(404, "NoSuchUpload")
            case "UploadPart":
                self._uploads[upload_id][1][int(query["partNumber"][0])] = size
                return _response(200, headers={"ETag": '"0"', **_checksums(headers)})
            case "CompleteMultipartUpload":
                about, sizes = self._uploads.pop(upload_id)
                self._objects[key] = _Stored(sizes.total(), {**about, **_checksums(headers)}, None)
                return _document("CompleteMultipartUploadResult", {"ETag": f'"0-{len(sizes)}"'})
            case "AbortMultipartUpload" | "DeleteObject":
                self._uploads.pop(upload_id, None)
                self._objects.pop(key, None)
                return _response(204)
            case "HeadObject" | "GetObject":
                return self._object(key, head=method == "HEAD")
            case "ListObjects":
                return _document("ListBucketResult", {"KeyCount": "0", "IsTruncated": "false"})
            case "ListMultipartUploads":
                return _document("ListMultipartUploadsResult", {"IsTruncated": "false"})
            case _:
                return _response(200)

    def _object(self, key: str, *, head: bool) -> bytes:
        stored = self._objects.get(key)
        if stored is None:
            return _response(404) if head else _error(404, "NoSuchKey")
        headers = {**stored.headers, "ETag": '"0"'}
        if head:
            return _response(200, headers={**headers, "Content-Length": str(stored.size)})
        return _response(200, stored.body or b"", headers=headers)


class _Connection(asyncio.BufferedProtocol):
    """Reads into one buffer, and skips bodies in it."""

    def __init__(self, store: _Store) -> None:
        self._store = store
        self._buffer = bytearray(_BUFFER)
        self._filled = 0
        self._skip = 0
        self._request: tuple[str, str, Mapping[str, str], int] | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._skip > nbytes:
            self._skip -= nbytes
            return
        self._filled += nbytes
        while self._advance():
            pass

    def _advance(self) -> bool:
        """Handle the next piece of a request in the buffer; return whether there was one."""
        if self._request is None:
            end = self._buffer.find(b"\r\n\r\n", 0, self._filled)
            if end < 0:
                if self._filled > _LONGEST_HEAD:
                    self._transport.abort()
                return False
            self._begin(bytes(self._buffer[:end]).decode("latin-1"))
            self._consume(end + 4)
            return True
        method, target, headers, size = self._request
        body = None
        if size <= _LONGEST_HEAD:  # short enough to be looked at whole
            if self._filled < size:
                return False
            body = bytes(self._buffer[:size])
            self._consume(size)
        else:
            skipped = min(self._skip, self._filled)
            self._consume(skipped)
            self._skip -= skipped
            if self._skip:
                return False
        self._request = None
        self._transport.write(self._store.answer(method, target, headers, size, body))
        return self._filled > 0

    def _begin(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length", 0))
        self._request = (method, target, headers, size)
        self._skip = size if size > _LONGEST_HEAD else 0
        if headers.get("transfer-encoding"):
            self._transport.write(_error(411, "MissingContentLength"))
            self._transport.close()
        elif headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _consume(self, size: int) -> None:
        left = self._filled - size
        self._buffer[:left] = self._buffer[size : self._filled]
        self._filled = left


def _operation(method: str, key: str, query: Mapping[str, object]) -> str:
    is_object = "/" in key.strip("/")
    match method:
        case "POST" if key == "/v1/traces":
            return "ExportTraces"
        case "POST" if "delete" in query:
            return "DeleteObjects"
        case "POST":
            return "CreateMultipartUpload" if "uploads" in query else "CompleteMultipartUpload"
        case "PUT" if is_object:
            return "UploadPart" if "partNumber" in query else "PutObject"
        case "DELETE" if is_object:
            return "AbortMultipartUpload" if "uploadId" in query else "DeleteObject"
        case "HEAD" if is_object:
            return "HeadObject"
        case "GET" if is_object:
            return "GetObject"
        case "GET":
            return "ListMultipartUploads" if "uploads" in query else "ListObjects"
        case _:
            return f"{method} bucket"


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith(_KEPT)}


def _checksums(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("x-amz-checksum-")}


def _document(root: str, fields: Mapping[str, str], headers: Mapping[str, str] | None = None) -> bytes:
    inside = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
    body = f'<?xml version="1.0" encoding="UTF-8"?><{root}>{inside}</{root}>'.encode()
    return _response(200, body, headers={"Content-Type": "application/xml", **(headers or {})})


def _error(status: int, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>of the cheap sink</Message></Error>".encode()
    return _response(status, body, headers={"Content-Type": "application/xml"})


def _response(status: int, body: bytes = b"", *, headers: Mapping[str, str] | None = None) -> bytes:
    lines = {"Content-Length": str(len(body)), **(headers or {})}
    if status == 204:
        del lines["Content-Length"]
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} -\r\n{head}\r\n".encode() + body


async def _serve() -> None:
    store = _Store()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(store), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    print(f"http://{host}:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(_serve())
