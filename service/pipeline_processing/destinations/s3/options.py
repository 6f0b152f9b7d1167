"""Destination `s3`: where objects go, with which access, and what they are created with."""

import re
import unicodedata
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from pipeline_processing.options.locations import parse_location
from pipeline_processing.options.parts import Part
from pipeline_processing.options.words import saying
from pipeline_processing.plugins import Plugin
from pipeline_processing.ports import BuildContext, Destination
from pipeline_processing.settings import values

if TYPE_CHECKING:
    from pipeline_processing.settings.settings import Settings

StorageClass = Literal[
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER_IR",
    "GLACIER",
    "DEEP_ARCHIVE",
]
"""AWS's names, except classes that need a special kind of bucket: Express One Zone, Outposts, Snow, FSx, …"""
ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Classes whose objects must be restored before they can be read."""

RoleArn = Annotated[
    str,
    StringConstraints(pattern=r"^arn:aws[a-z-]*:iam::([0-9]{12})?:role/[A-Za-z0-9_+=,.@/-]+$", max_length=2048),
    saying("must be the ARN of a role, such as arn:aws:iam::123456789012:role/exports"),
]

_MOST_TAGS = 10
_LONGEST_TAG_KEY, _LONGEST_TAG_VALUE = 128, 256
_PLACEHOLDER = re.compile(r"\{(agency_id|run_id)\}")
_LONGEST: Mapping[str, str] = {"agency_id": "9" * 19, "run_id": "r" * 128}


def _check_tag(key: str, value: str) -> None:
    """Check AWS's rules, which the values filled in for a run always satisfy. Raises ValueError."""
    longest = _PLACEHOLDER.sub(lambda found: _LONGEST[found[1]], value)
    if "{" in longest or "}" in longest:
        raise ValueError(f"the tag {key!r} may hold {{agency_id}} and {{run_id}}, and no other braces")
    for what, text, limit in (("key", key, _LONGEST_TAG_KEY), ("value", longest, _LONGEST_TAG_VALUE)):
        if wrong := sorted({character for character in text if not _may_stand_in_tags(character)}):
            raise ValueError(
                f"the {what} of tag {key!r} has {', '.join(map(repr, wrong))}; "
                "it may have letters, digits, spaces and _ . : / = + - @"
            )
        if (length := len(text.encode("utf-16-le")) // 2) > limit:  # as AWS counts characters
            filled = " once its placeholders are filled in" if text != value and what == "value" else ""
            raise ValueError(f"the {what} of tag {key!r} can have {length} characters{filled}, and {limit} are allowed")
    if not key or key.lower().startswith("aws:"):
        raise ValueError(f"a tag can't be called {key!r}: a key has 1 character at least, and `aws:` is AWS's own")


def _may_stand_in_tags(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNZ" or character in "_.:/=+-@"


def _checked_tags(tags: dict[str, str]) -> dict[str, str]:
    if len(tags) > _MOST_TAGS:
        raise ValueError(f"an object has {_MOST_TAGS} tags at most, not {len(tags)}")
    for key, value in tags.items():
        _check_tag(key, value)
    return tags


class S3ObjectOptions(Part):
    """What every object is created with; what isn't set is the bucket's own default."""

    storage_class: StorageClass | None = Field(
        None, description="Of all objects; in an archive the manifest stays STANDARD, so that it can be read."
    )
    sse: Literal["AES256", "aws:kms"] | None = Field(None, description="Encryption by S3: AES256 or aws:kms.")
    kms_key_id: Annotated[str, StringConstraints(pattern=r"^\S+$", max_length=2048)] | None = Field(
        None, description="With aws:kms: the key's id, ARN or alias; AWS's own key if not set."
    )
    tags: Annotated[dict[str, str], AfterValidator(_checked_tags)] = Field(
        default_factory=dict, description="At most 10. A value may hold {agency_id} and {run_id}."
    )
    # Not CRC64NVME: see docs/decisions/0018-crc32-of-whole-objects.md.
    checksum: Literal["crc32", "sha256"] = Field(
        "crc32", description="What S3 checks each part by, and keeps; sha256 takes more of the processor's time."
    )

    @model_validator(mode="after")
    def _key_is_used(self) -> "S3ObjectOptions":
        if self.kms_key_id is not None and self.sse != "aws:kms":
            raise ValueError("`kms_key_id` needs `sse: aws:kms`")
        return self

    def tags_for(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """
        Return the tags of an object with this metadata, which names its run.

        Tags with placeholders are left out for an object that belongs to no single run.
        """
        run = {name: metadata.get(name.replace("_", "-")) for name in _LONGEST}
        if run["agency_id"] is not None:  # tags can't have what a percent-encoded key may have
            run["agency_id"] = run["agency_id"].replace("%", "=").replace("~", "=7E")
        return {
            key: _PLACEHOLDER.sub(lambda found: str(run[found[1]]), value)[:_LONGEST_TAG_VALUE]
            for key, value in self.tags.items()
            if all(run[name] is not None for name in _PLACEHOLDER.findall(value))
        }


class S3ConnectionOptions(Part):
    """Which server, and as whom. What isn't set is as PIPELINE_S3__* say."""

    region: (
        Annotated[
            str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,63}$"), saying("must be a region, such as eu-central-1")
        ]
        | None
    ) = Field(None, description="Region of the bucket; PIPELINE_S3__REGION if not set.")
    endpoint_url: values.HttpUrl | None = Field(
        None, description="URL of an S3-compatible store, without credentials; PIPELINE_S3__ENDPOINT_URL if not set."
    )
    addressing_style: Literal["auto", "path", "virtual"] | None = Field(
        None, description="auto, path or virtual; PIPELINE_S3__ADDRESSING_STYLE if not set."
    )
    role_arn: RoleArn | None = Field(
        None, description="A role to assume, with the credentials of PIPELINE_S3__* or the usual AWS chain."
    )
    external_id: (
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+=,.@:/-]+$", min_length=2, max_length=1224)] | None
    ) = Field(None, description="What the role's owner asks for beside that.")
    role_session_name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+=,.@-]{2,64}$")] = Field(
        "pipeline-processing", description="What the role's owner sees in the logs."
    )

    @model_validator(mode="after")
    def _role_is_named(self) -> "S3ConnectionOptions":
        if self.external_id is not None and self.role_arn is None:
            raise ValueError("`external_id` needs `role_arn`")
        return self


class S3DestinationConfig(S3ObjectOptions, S3ConnectionOptions):
    """A bucket and the prefix below it."""

    holds_manifest: ClassVar[bool] = True
    buffers_parts: ClassVar[bool] = True
    guarantee: ClassVar[str] = (
        "exactly once: whole objects under the run's own keys, none of a lost attempt, never overwritten"
    )

    bucket: str
    prefix: str = ""

    @model_validator(mode="after")
    def _is_a_location(self) -> "S3DestinationConfig":
        parse_location(f"s3://{self.bucket}/{self.prefix.strip('/')}")  # by the rules of PIPELINE_DESTINATION
        return self

    @property
    def place(self) -> str:
        """See `DestinationEntry`."""
        return f"s3://{self.bucket}/{self.prefix.strip('/')}"


class _S3Context(BuildContext, Protocol):
    settings: "Settings"


@asynccontextmanager
async def _opened(options: S3DestinationConfig, *, context: _S3Context) -> AsyncIterator[Destination]:
    from pipeline_processing.destinations.s3.client import s3_client
    from pipeline_processing.destinations.s3.destination import S3Destination

    async with s3_client(context.settings.s3, options, learned=context.learn) as client:
        yield S3Destination(
            client=client,
            bucket=options.bucket,
            prefix=options.prefix,
            budget=context.limits.uploads,
            runs=context.limits.runs,
            uploads_per_run=context.limits.uploads_per_run,
            options=options,
        )


PLUGIN = Plugin(options=S3DestinationConfig, build=_opened)
