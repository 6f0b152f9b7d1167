"""What the mask finds in text, and what it leaves."""

import html
import json
import pickle
from base64 import b64encode, urlsafe_b64encode
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from pipeline_processing.telemetry.masking import MASK, Mask
from pipeline_processing.telemetry.spellings import SHORT

SECRET = "k3y/with \"all\" & 'more' <%\\é"


def knowing(*secrets: str) -> Mask:
    mask = Mask()
    mask.know(secrets)
    return mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgres://u:p@ss@h/db", "postgres://u:***@h/db"),
        ("a postgres://u:p@h, b redis://:p@h.", "a postgres://u:***@h, b redis://:***@h."),
        ("https://t0ken@h/x", "https://***@h/x"),
        ("http://host:9000/a@b and user@host", "http://host:9000/a@b and user@host"),
        ("host=h password='a b' user=u", "host=h password=*** user=u"),
        ("?sslpassword=p&x=1", "?sslpassword=***&x=1"),
        ("X-Amz-Signature=abc&X=1", "X-Amz-Signature=***&X=1"),
        ("aws_session_token = IQoJb3", "aws_session_token = ***"),
        ("URL('https://cdn/x?token=abc&page=2')", "URL('https://cdn/x?token=***&page=***')"),
        ("https://cdn/x?abc.def", "https://cdn/x?***"),
        ("Authorization: Bearer eyJhbGciOi.x-y_z", "Authorization: Bearer ***"),
        ("Basic Constraints of the certificate", "Basic Constraints of the certificate"),
        ("Basic dXNlcjpwYXNzd29yZA==", "Basic ***"),
        ("a bearer certificate", "a bearer certificate"),
        ("nothing here", "nothing here"),
    ],
)
def test_secrets_known_by_their_form(text: str, masked: str) -> None:
    """Passwords and queries of URLs, assignments, headers: whosever they are."""
    assert Mask().text(text) == masked


@pytest.mark.parametrize(
    "written",
    [
        SECRET,
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        json.dumps({"in": json.dumps([SECRET])}),
        repr(SECRET),
        repr(SECRET.replace('"', "")).replace("x", ""),
        ascii(SECRET),
        repr(SECRET.encode()),
        json.dumps(repr(SECRET)),
        SECRET.replace("'", "''"),
        html.escape(SECRET),
        quote(SECRET),
        quote(SECRET, safe=""),
        quote(SECRET, safe="").lower(),
        quote_plus(SECRET),
        b64encode(SECRET.encode()).decode(),
        b64encode(f"ann:{SECRET}".encode()).decode(),
        urlsafe_b64encode(f"joe2:{SECRET} and more".encode()).decode(),
        SECRET.encode().hex(),
    ],
)
def test_a_secret_in_every_form(written: str) -> None:
    """As URLs, JSON, Python, SQL, XML and HTTP write it, and escaped twice."""
    masked = knowing(SECRET, SECRET.replace('"', "")).text(f"before {written} after")

    assert MASK in masked
    assert len(masked) <= len(f'before {{"in": "[\\"{MASK}\\"]"}} after')
    assert (masked[:7], masked[-6:]) == ("before ", " after")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=SHORT), st.text(), st.text())
def test_any_long_secret_anywhere(secret: str, before: str, after: str) -> None:
    """Whatever it is made of, and whatever stands around it."""
    if len(secret.strip()) >= SHORT:
        assert secret.strip() not in knowing(secret).text(f"{before}{secret}{after}").replace(MASK, "")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("abc", "***"),
        ("password 'abc', user abcd, x-abc, _abc", "password '***', user abcd, x-***, _abc"),
        (r"line\nabc\n", r"line\n***\n"),
        ("/x%3Aabc%20", "/x%3A***%20"),
        ("ABC", "ABC"),
        (b64encode(b"abc").decode(), "***"),
    ],
)
def test_a_short_secret(text: str, masked: str) -> None:
    """It is masked where it stands alone: as a part of words it is there by chance."""
    assert knowing("abc").text(text) == masked


def test_secrets_of_nothing() -> None:
    """An empty one, or one of spaces, hides nothing."""
    assert knowing("", "  ").text("as it was") == "as it was"


def test_secrets_that_overlap() -> None:
    """Nothing of either is left."""
    assert knowing("abcdefgh", "fghijklm").text("abcdefghijklm") == MASK


def test_a_secret_that_is_cut_off() -> None:
    """What a message has of it before `…`."""
    assert knowing("s3cret-of-mine").text("raised: s3cret-of…. Mend s3c…") == "raised: ***…. Mend s3c…"


def test_each_line_of_a_secret() -> None:
    """A key in PEM is rarely shown in one piece."""
    mask = knowing("-----BEGIN KEY-----\nfirst line\nsecond line\n")

    assert mask.text("> first line\n> second line, of -----BEGIN KEY-----") == "> ***\n> ***, of -----BEGIN KEY-----"


def test_a_dsn() -> None:
    """Its password, decoded or not, also in the query, and as HTTP sends it; what else it says may be read."""
    mask = knowing("postgresql://app:p%2Fw-long@db1:5432,db2:5432/agencies?sslpassword=of-the-key")

    assert mask.text("p/w-long p%2Fw-long of-the-key") == "*** *** ***"
    assert mask.text(b64encode(b"app:p/w-long").decode()) == MASK
    assert mask.text("app at db1:5432 and db2:5432, agencies") == "app at db1:5432 and db2:5432, agencies"
    assert mask.text("postgresql://app:p%2Fw-long@db1:5432/agencies") == "postgresql://app:***@db1:5432/agencies"


def test_a_dsn_of_a_socket() -> None:
    """It has no host, and its password in the query."""
    assert (
        knowing("postgresql:///x?host=/run/db&user=me&password=of-mine").text("of-mine of me in x") == "*** of me in x"
    )


def test_any_other_url_is_a_secret_as_a_whole() -> None:
    """Such as one of a webhook, whose path is the secret."""
    mask = knowing("https://hooks.example/T0/abcdef")

    assert mask.text("to https://hooks.example/T0/abcdef.") == "to ***."
    assert mask.text("hooks.example has no /T0/abcdef") == "hooks.example has no /***"


def test_a_token_in_a_url_is_a_secret_by_itself() -> None:
    """Ordinary words there are not."""
    mask = knowing("https://hooks.example/completion-events/T0-24characters-xyz?key=0123456789abcdef&v=2")

    assert mask.text("T0-24characters-xyz of 0123456789abcdef") == "*** of ***"
    assert mask.text("2 completion-events") == "2 completion-events"


def test_a_mask_for_another_process() -> None:
    """It knows as much."""
    mask = knowing("postgresql://me:of-mine@db/me-too", "me-too")

    assert pickle.loads(pickle.dumps(mask)).text("of-mine, me-too") == "***, me-too"


def test_secrets_in_options() -> None:
    """Every SecretStr, however deep."""

    class Options(BaseModel):
        token: SecretStr
        url: str

    @dataclass
    class Holder:
        options: list[Options]

    mask = Mask()
    mask.know_all_in({"x": (Holder([Options(token=SecretStr("of-a-plugin"), url="plain-text")]), None)})

    assert mask.text("of-a-plugin plain-text") == "*** plain-text"


@pytest.mark.parametrize("text", ["http://" * 200_000, "…" * 500_000, "password " * 100_000])
def test_masking_takes_time_in_proportion_to_the_text(text: str) -> None:
    """Requests may be made to slow it down, which took an hour for these."""
    mask = Mask()
    mask.know([f"secret number {number}" for number in range(20)])

    assert mask.text(text) == text


def test_a_line_with_nothing_but_a_brace_is_no_secret() -> None:
    """A secret in JSON, such as a service account, has some."""
    mask = Mask()
    mask.know(['{\n  "key": "s3cr3t-value"\n}'])

    assert mask.text('failed: {"a": 1} }') == 'failed: {"a": 1} }'
    assert "s3cr3t-value" not in mask.text('it says   "key": "s3cr3t-value"')


def test_values_are_masked_inside() -> None:
    """Whatever their shape; what is named like a secret is hidden whole, and what has none stays what it is."""
    mask = knowing("tops3cret", "12345678")
    assert mask.value(
        {
            "url": "https://u:p@h/",
            "password": ["anything"],
            "token": None,
            "in tops3cret": ("a tops3cret", {"n": 1.5, "id": 12345678, "ok": True, 7: None}),
            "object": ValueError("tops3cret"),
        }
    ) == {
        "url": f"https://u:{MASK}@h/",
        "password": MASK,
        "token": None,
        f"in {MASK}": [f"a {MASK}", {"n": 1.5, "id": MASK, "ok": True, 7: None}],
        "object": MASK,
    }
