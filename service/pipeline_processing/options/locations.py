"""Destinations as URLs: `s3://bucket/prefix` or `file:///dir`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket and a prefix without leading or trailing slashes; an empty prefix means the whole bucket."""

    bucket: str
    prefix: str = ""

    @property
    def entry(self) -> Mapping[str, Any]:
        """The equivalent entry of a job config."""
        return {"s3": {"bucket": self.bucket, "prefix": self.prefix}}

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


@dataclass(frozen=True, slots=True)
class FileLocation:
    """An absolute path of a local folder."""

    path: Path

    @property
    def entry(self) -> Mapping[str, Any]:
        """See `S3Location`."""
        return {"file": {"path": self.path}}

    def __str__(self) -> str:
        return self.path.as_uri()


Location = S3Location | FileLocation


def parse_location(text: str) -> Location:
    """
    Parse `s3://bucket/prefix` or `file:///dir` (percent-encoded, as in any file URL).

    Raises ValueError, whose message never repeats the text: it may contain credentials.
    """
    scheme, separator, rest = text.partition("://")
    if separator and scheme.lower() == "s3":
        return _s3_location(rest)
    if separator and scheme.lower() == "file":
        return _file_location(rest)
    raise ValueError("must be s3://bucket/prefix or file:///dir")


def _s3_location(rest: str) -> S3Location:
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket:
        raise ValueError(
            "must be s3://bucket/prefix without credentials: "
            "those belong into PIPELINE_S3__ACCESS_KEY_ID and PIPELINE_S3__SECRET_ACCESS_KEY"
        )
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(
            "must be s3://bucket/prefix, and a bucket's name has 3 to 63 lower-case letters, digits, dots and hyphens"
        )
    prefix = prefix.strip("/")
    if _UNPRINTABLE.search(prefix) or any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
        raise ValueError(
            "must be s3://bucket/prefix, and a prefix has no empty, `.` or `..` part and no control characters"
        )
    return S3Location(bucket, prefix)


def _file_location(rest: str) -> FileLocation:
    path = unquote(rest)
    if not path.startswith("/"):
        raise ValueError("must be file:///dir: three slashes and an absolute path, without a host")
    if _UNPRINTABLE.search(path) or ".." in path.split("/"):
        raise ValueError("must be file:///dir, without `..` and control characters")
    return FileLocation(Path(path))
