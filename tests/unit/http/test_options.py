"""Options of an upstream API in a job config."""

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline_processing.http.options import UpstreamOptions
from pipeline_processing.options.validation import faults_of


class More(UpstreamOptions):
    """As sources and steps add theirs."""

    url: str


def test_defaults():
    """Without any option: no access, no limit, half a minute, four retries."""
    options = UpstreamOptions()

    assert options.timeout == timedelta(seconds=30)
    assert (options.auth, options.requests_per_second, options.max_retries, options.headers) == (None, None, 4, {})
    assert options.secrets == ()


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        ({"bearer": "crm_token"}, "Authorization"),
        ({"basic": {"username": "us er", "password": "crm_token"}}, "Authorization"),
        ({"header": {"name": "X-Api-Key", "secret": "crm_token"}}, "X-Api-Key"),
    ],
)
def test_access_names_a_secret(auth: dict[str, Any], header: str):
    """Whatever way of access is chosen, its secret is known by name."""
    options = UpstreamOptions.model_validate({"auth": auth})

    assert options.secrets == ("crm_token",)
    assert options.auth is not None
    assert options.auth.header_name == header


FAULTY: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"retries": 3}, "retries: unknown key"),
    "no way of access": ({"auth": {}}, "needs one of bearer, basic, header, and has none"),
    "two ways of access": (
        {"auth": {"bearer": "a", "header": {"name": "X", "secret": "b"}}},
        "has bearer and header",
    ),
    "a secret itself": ({"auth": {"bearer": "s3cret!/="}}, "auth.bearer: must be the name of a secret"),
    "a user with a colon": ({"auth": {"basic": {"username": "a:b", "password": "p"}}}, "colon"),
    "a header that isn't one": ({"headers": {"a b": "x"}}, "headers"),
    "a header of two lines": ({"headers": {"X-A": "x\r\nHost: b.example"}}, "X-A has characters"),
    "a header that isn't ASCII": ({"headers": {"X-A": "é"}}, "X-A has characters"),
    "a header twice": ({"headers": {"X-A": "1", "x-a": "2"}}, "x-a is set twice"),
    "a header with a secret": ({"headers": {"authorization": "Bearer s3cret!/="}}, "use `auth`"),
    "a cookie": ({"headers": {"Cookie": "s3cret!/="}}, "use `auth`"),
    "a header of ours": ({"headers": {"Host": "b.example"}}, "Host is set by this service"),
    "a header of ours for the secret": (
        {"auth": {"header": {"name": "content-length", "secret": "a"}}},
        "content-length is set by this service",
    ),
    "a header both ways": (
        {"headers": {"x-api-key": "1"}, "auth": {"header": {"name": "X-Api-Key", "secret": "a"}}},
        "both set X-Api-Key",
    ),
    "no requests": ({"requests_per_second": 0}, "requests_per_second"),
    "endless requests": ({"requests_per_second": float("inf")}, "requests_per_second"),
    "no time": ({"timeout": "0s"}, "timeout: must be longer"),
    "time without unit": ({"timeout": 30}, "timeout: 30 isn't a duration"),
    "fewer than no retries": ({"max_retries": -1}, "max_retries"),
}


@pytest.mark.parametrize(("options", "fault"), FAULTY.values(), ids=FAULTY)
def test_options_that_cannot_be_used(options: dict[str, Any], fault: str):
    """Each fault is told by its place, and never with a secret that stands where it shouldn't."""
    with pytest.raises(ValidationError) as raised:
        UpstreamOptions.model_validate(options)

    told = "\n".join(faults_of(raised.value))
    assert fault in told
    assert "s3cret" not in told


def test_only_the_access_of_larger_options():
    """What a source or a step adds doesn't make it another API to ask."""
    more = More.model_validate({"url": "http://a.example", "auth": {"bearer": "crm_token"}, "timeout": "5s"})

    assert more.access == UpstreamOptions.model_validate({"auth": {"bearer": "crm_token"}, "timeout": "5s"})
