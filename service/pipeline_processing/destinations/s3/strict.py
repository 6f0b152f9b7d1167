"""The S3 client of `doctor`, which shows what a store lacks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline_processing.destinations.s3.client import S3Client


@dataclass(frozen=True, slots=True)
class AbortRule:
    """A lifecycle rule that removes incomplete uploads of keys that begin with `prefix`, after `days`."""

    prefix: str
    days: int


class StrictS3Client(S3Client):
    """Can do without the stand-in for If-None-Match, and reads the bucket's rules."""

    _strict = False

    @contextmanager
    def strictly(self) -> Iterator[None]:
        """Inside the block, raise Unsupported if the store rejects If-None-Match, instead of looking first."""
        self._strict = True
        try:
            yield
        finally:
            self._strict = False

    async def abort_rules(self, *, bucket: str) -> Sequence[AbortRule]:
        """Return the enabled rules. Raises ObjectMissing if there are none at all, or Unsupported."""
        asked = self._client.get_bucket_lifecycle_configuration(Bucket=bucket)
        answer = await self._answer(asked, "read the lifecycle of", bucket)
        return [
            AbortRule(prefix=_prefix_of(rule), days=rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"])
            for rule in answer.get("Rules", [])
            if rule.get("Status") == "Enabled" and "AbortIncompleteMultipartUpload" in rule
        ]

    async def _if_absent(self, operation: str, doing: str, bucket: str, key: str, **arguments: Any) -> Any:
        if not self._strict:
            return await super()._if_absent(operation, doing, bucket, key, **arguments)
        return await self._call(operation, doing, bucket, key, IfNoneMatch="*", needs="ETag", **arguments)


def _prefix_of(rule: Any) -> str:
    limits = rule.get("Filter", {})
    return str(limits.get("Prefix") or limits.get("And", {}).get("Prefix") or rule.get("Prefix") or "")
