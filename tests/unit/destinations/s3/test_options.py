"""The options of an s3 destination: AWS's own rules are kept before AWS is asked."""

from __future__ import annotations

import re
import string
from typing import Any

import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline_processing.agency_keys import encoded_key
from pipeline_processing.destinations.s3.options import S3DestinationConfig, S3ObjectOptions

KEY = "arn:aws:kms:eu-west-1:123456789012:key/1234"
ROLE = "arn:aws:iam::123456789012:role/path/exporter"


def s3(**options: Any) -> S3DestinationConfig:
    return S3DestinationConfig.model_validate({"bucket": "exports", **options})


def fault(**options: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        s3(**options)
    return str(caught.value)


def test_a_bucket_will_do() -> None:
    """Everything else is as the bucket and PIPELINE_S3__* have it."""
    config = s3()
    assert config.model_dump(exclude_defaults=True) == {"bucket": "exports"}
    assert config.checksum == "crc32"


def test_all_options_together() -> None:
    """As a user may write them."""
    options = {
        "prefix": "agencies",
        "storage_class": "STANDARD_IA",
        "sse": "aws:kms",
        "kms_key_id": KEY,
        "tags": {"team": "data", "run": "{run_id}"},
        "region": "eu-west-1",
        "endpoint_url": "https://s3.example.com:9000",
        "addressing_style": "path",
        "checksum": "sha256",
        "role_arn": ROLE,
        "external_id": "agreed",
        "role_session_name": "nightly",
    }
    assert s3(**options).model_dump(exclude_defaults=True) == {"bucket": "exports", **options}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"bucket": "Exports"}, "lower-case"),
        ({"prefix": "a/../b"}, "prefix"),
        ({"storage_class": "standard"}, "'STANDARD'"),
        ({"storage_class": "OUTPOSTS"}, "'STANDARD_IA'"),
        ({"sse": "aes256"}, "'AES256' or 'aws:kms'"),
        ({"kms_key_id": KEY}, "needs `sse: aws:kms`"),
        ({"sse": "AES256", "kms_key_id": KEY}, "needs `sse: aws:kms`"),
        ({"sse": "aws:kms", "kms_key_id": "a b"}, "kms_key_id"),
        ({"checksum": "crc64nvme"}, "'crc32' or 'sha256'"),
        ({"addressing_style": "dns"}, "'auto', 'path' or 'virtual'"),
        ({"region": "eu west"}, "region"),
        ({"endpoint_url": "ftp://x"}, "must be a URL such as https://host:9000"),
        ({"endpoint_url": "https://user:hunter2@x"}, "without credentials"),
        ({"role_arn": "exporter"}, "role_arn"),
        ({"role_arn": "arn:aws:iam::123456789012:user/exporter"}, "role_arn"),
        ({"external_id": "agreed"}, "needs `role_arn`"),
        ({"role_arn": ROLE, "external_id": "a b"}, "external_id"),
        ({"role_arn": ROLE, "role_session_name": "{run_id}"}, "role_session_name"),
        ({"acl": "public-read"}, "acl"),
        ({"tags": {"": "x"}}, "1 character at least"),
        ({"tags": {"AWS:x": "x"}}, "AWS's own"),
        ({"tags": {"a" * 129: "x"}}, "129 characters, and 128"),
        ({"tags": {"a": "x" * 257}}, "257 characters, and 256"),
        ({"tags": {"a": "🦉" * 129}}, "'🦉'"),
        ({"tags": {"a": "x" * 130 + "{run_id}"}}, "258 characters once its placeholders are filled in, and 256"),
        ({"tags": {"a": "x;y"}}, "';'"),
        ({"tags": {"a?": "x"}}, "'?'"),
        ({"tags": {"a": "{dataset}"}}, "{agency_id} and {run_id}"),
        ({"tags": {"a": "{run_id"}}, "{agency_id} and {run_id}"),
        ({"tags": {"{run_id}": "a"}}, "the key of tag"),
        ({"tags": {str(number): "" for number in range(11)}}, "10 tags at most, not 11"),
    ],
    ids=str,
)
def test_what_aws_would_refuse(options: dict[str, Any], told: str) -> None:
    """With the option's name and what it may be; a password in a URL isn't repeated by us."""
    message = fault(**options)
    assert told in message
    assert "hunter2" not in re.sub(r"\[type=.*\]", "", message)


def test_every_storage_class_of_aws_is_offered_or_left_out_on_purpose() -> None:
    """A new one fails here until somebody has decided."""
    model = botocore.session.get_session().get_service_model("s3")
    aws = set(model.operation_model("CreateMultipartUpload").input_shape.members["StorageClass"].enum)
    of_other_storage = {
        "EXPRESS_ONEZONE",
        "OUTPOSTS",
        "SNOW",
        "FSX_OPENZFS",
        "FSX_ONTAP",
        "AWS_BACKUP_WARM",
        "AWS_BACKUP_LOW_COST_WARM",
    }
    schema = S3ObjectOptions.model_json_schema()["properties"]["storage_class"]
    assert set(schema["anyOf"][0]["enum"]) == aws - of_other_storage


ALLOWED = st.sampled_from(string.ascii_letters + string.digits + " _.:/=+-@éж五\u00a0")


@given(
    tags=st.dictionaries(
        st.text(ALLOWED, min_size=1, max_size=128).filter(lambda key: not key.lower().startswith("aws:")),
        st.text(ALLOWED, max_size=64) | st.sampled_from(["{run_id}", "{agency_id}/{run_id}", "{agency_id}{agency_id}"]),
        max_size=10,
    ),
    agency_id=st.integers(1, 2**63 - 1),
    run_id=st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z"),
)
def test_filled_in_tags_keep_the_rules_too(tags: dict[str, str], agency_id: int, run_id: str) -> None:
    """Whatever the run: a run can't fail because of what it is called."""
    options = S3ObjectOptions(tags=tags)
    filled = options.tags_for({"agency-id": str(agency_id), "run-id": run_id})
    assert filled.keys() == tags.keys()
    assert S3ObjectOptions(tags=filled).tags == filled
    for key, value in tags.items():
        assert filled[key] == value.replace("{agency_id}", str(agency_id)).replace("{run_id}", run_id)


def test_tags_hold_keys_that_are_texts() -> None:
    """In a form that AWS takes, different for different keys, and cut where it would be too long."""
    options = S3ObjectOptions(tags={"agency": "{agency_id}", "long": "x" * 200 + "{agency_id}"})
    filled = options.tags_for({"agency-id": encoded_key("ä/b%~=" + "c" * 90), "run-id": "r"})
    assert filled["agency"] == "=C3=A4=2Fb=25=7E=3D" + "c" * 90
    assert S3ObjectOptions(tags=filled).tags == filled


def test_an_object_of_all_runs_has_the_tags_of_all_runs() -> None:
    """Those with placeholders have nothing to say of it."""
    options = S3ObjectOptions(tags={"team": "data", "run": "{run_id}", "both": "{agency_id} {run_id}"})
    assert options.tags_for({}) == {"team": "data"}
