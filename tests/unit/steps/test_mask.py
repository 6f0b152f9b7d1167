"""`mask` puts pseudonyms, or less, in place of values."""

import hashlib
import hmac
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from pydantic import SecretStr, ValidationError

from pipeline_processing.agency_data_job.rejections import masked_at_source
from pipeline_processing.errors import InvalidStep, SecretMissing, UnknownColumn
from pipeline_processing.kinds import column_of_kind, form_of, text_of
from pipeline_processing.ports import Row
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Column, Columns, Kind
from pipeline_processing.rows.untouched import remembering
from pipeline_processing.steps.mask import Mask, MaskOptions
from tests.unit.steps.step_context import NoServices, batch, context

SECRETS = {"pepper": "søl", "key": "k" * 70}
TEXTS = st.text(max_size=30)


class Secrets(NoServices):
    def secret(self, name: str) -> SecretStr:
        if name not in SECRETS:
            raise SecretMissing(name, available=tuple(SECRETS))
        return SecretStr(SECRETS[name])


def column(name: str, kind: Kind = Kind.TEXT, carry: str = "json") -> Column:
    return column_of_kind(name, kind, carry, origins=[name])


def mask(reaching: Columns | None = None, *, carry: str = "json", **options: Any) -> Mask:
    parsed = MaskOptions.model_validate({"columns": ["email"], **options})
    there = reaching or Columns((column("id", Kind.INTEGER, carry), column("email", carry=carry)))
    return Mask(parsed, context(there, carry=carry, services=Secrets()))


async def masked(step: Mask, *rows: Row) -> list[Row]:
    async with step:
        return (await step(batch(*rows))).rows


async def masked_text(text: Any, **options: Any) -> Any:
    [row] = await masked(mask(**options), {"id": 1, "email": text})
    assert row["id"] == 1
    return row["email"]


# -- the formulas, by Python's own means ---------------------------------------------------------


@given(text=TEXTS)
async def test_sha256_of_the_text(text: str):
    """Without a salt, what `sha256sum` prints for the text."""
    assert await masked_text(text, using="sha256") == hashlib.sha256(text.encode()).hexdigest()


@given(text=TEXTS)
async def test_sha256_of_salt_and_text(text: str):
    """The salt's bytes stand before the text's."""
    expected = hashlib.sha256((SECRETS["pepper"] + text).encode()).hexdigest()

    assert await masked_text(text, using="sha256", salt="pepper") == expected


@given(text=TEXTS)
async def test_hmac_of_the_text(text: str):
    """HMAC-SHA-256, also with a key longer than a block."""
    expected = hmac.new(SECRETS["key"].encode(), text.encode(), "sha256").hexdigest()

    assert await masked_text(text, using="hmac", secret="key") == expected


@pytest.mark.parametrize(
    ("options", "pseudonym"),
    [
        ({"using": "sha256"}, "438c4c7afe600cdf1e455c369bec76dc970fc8ca463447c7b387a347f3c79331"),
        ({"using": "sha256", "salt": "pepper"}, "413e409e52bcd2a36343d793f3dad8bd3ec383899fbefae7d402b13beff75619"),
        ({"using": "hmac", "secret": "key"}, "1f56e1a12fa6718aac0557a141d719d686c383e20c482dabc122dbf70b7c2639"),
    ],
)
async def test_pseudonyms_never_change(options: dict[str, Any], pseudonym: str):
    """Others have stored them, and join by them."""
    assert await masked_text("ann@example.org", **options) == pseudonym


@pytest.mark.parametrize(("options", "expected"), [({}, "***"), ({"with": "gone"}, "gone"), ({"with": None}, None)])
async def test_redacted(options: dict[str, Any], expected: str | None):
    """Always the same text, or null."""
    assert await masked_text("ann@example.org", using="redact", **options) == expected


@given(text=TEXTS, keep=st.integers(0, 8))
async def test_partial(text: str, keep: int):
    """The last characters stay, unless they were all of it; the length stays, too."""
    shown = await masked_text(text, using="partial", keep=keep)

    assert len(shown) == len(text)
    stays = keep if len(text) > keep else 0
    assert shown == "*" * (len(text) - stays) + text[len(text) - stays :]


async def test_four_characters_stay_by_default():
    """As on a receipt."""
    assert await masked_text("5500 0000 0000 0004", using="partial") == "***************0004"
    assert await masked_text("0004", using="partial") == "****"


@pytest.mark.parametrize(
    "options", [{"using": "sha256"}, {"using": "hmac", "secret": "key"}, {"using": "redact"}, {"using": "partial"}]
)
async def test_null_stays_null(options: dict[str, Any]):
    """That there is no value isn't hidden."""
    assert await masked_text(None, **options) is None


# -- other values than text ----------------------------------------------------------------------


@pytest.mark.parametrize("carry", ["json", "text"])
@pytest.mark.parametrize(
    ("kind", "natural"),
    [
        (Kind.INTEGER, 5),
        (Kind.NUMBER, Decimal("1.50")),
        (Kind.FLOAT, 1e23),
        (Kind.BOOLEAN, True),
        (Kind.TIMESTAMPTZ, datetime(2026, 1, 18, 10, tzinfo=UTC)),
        (Kind.JSON, {"a": [1, None]}),
    ],
)
async def test_the_text_of_any_value_is_masked(kind: Kind, natural: Any, carry: str):
    """It is the text that the format would have printed."""
    carried = form_of(kind, carry).carried(natural)
    step = mask(Columns((column("email", kind, carry),)), carry=carry, using="sha256")

    [row] = await masked(step, {"email": carried})

    assert row["email"] == hashlib.sha256(text_of(carried).encode()).hexdigest()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("1E+3"), "1000"),
        (2.0, "2"),
        (float("nan"), "NaN"),
        (remembering(1e23, Raw(b"1e+23")), "1e+23"),
        (datetime(2026, 1, 18, 10, tzinfo=UTC), "2026-01-18T10:00:00+00:00"),
        (date(2026, 1, 18), "2026-01-18"),
        ({"a": 1}, '{"a":1}'),
        (b"\x01", "\\x01"),
        (True, "true"),
        ("half \ud800", None),
    ],
)
async def test_what_a_python_step_left_is_masked(value: Any, text: str | None):
    """Whatever it is, there is a text to hash; so nothing passes because it is unusual."""
    [row] = await masked(mask(UNKNOWN_COLUMNS, using="sha256"), {"email": value})

    expected = text.encode() if text is not None else value.encode(errors="surrogatepass")
    assert row["email"] == hashlib.sha256(expected).hexdigest()


# -- columns -------------------------------------------------------------------------------------


async def test_a_masked_column_is_text_made_of_the_same_origin():
    """Others stay as they are; rows that came in aren't touched."""
    step = mask(using="partial", columns=["id"])
    row = {"id": 12345678, "email": "x"}

    assert await masked(step, row) == [{"id": "****5678", "email": "x"}]
    assert row["id"] == 12345678
    found = step.columns.find("id")
    assert found is not None
    assert (found.kind, found.origins, found.unchanged) == (Kind.TEXT, frozenset({"id"}), False)
    assert step.columns.find("email") == column("email")
    assert step.filtered == 0


async def test_rejected_rows_are_masked_the_same_way():
    """`masks` has what makes the source's value unreadable among rejected rows."""
    source = Columns((Column("email", origins=frozenset({"email"}), unchanged=True, kind=Kind.TEXT),))
    step = mask(source, using="hmac", secret="key")

    [row] = await masked(step, {"email": "ann@example.org"})

    assert masked_at_source([(step, step.columns)], source)["email"]("ann@example.org") == row["email"]


def test_unknown_columns_are_found_before_the_first_row():
    """A slip mustn't let a personal value through."""
    with pytest.raises(UnknownColumn, match=r"'mask: e-mail' reads column 'e-mail'.*id, email"):
        mask(columns=["e-mail"], using="sha256")


async def test_unknown_columns_are_found_in_rows():
    """Not behind a python step either."""
    with pytest.raises(UnknownColumn, match="'email'"):
        await masked(mask(UNKNOWN_COLUMNS, using="sha256"), {"email": "x"}, {"mail": "x"})


def test_a_column_named_twice_is_refused():
    """It would be masked twice, or a second one not at all."""
    with pytest.raises(InvalidStep, match="'email' twice"):
        mask(columns=["email", "email"], using="sha256")


# -- options -------------------------------------------------------------------------------------


async def test_a_missing_secret_is_found_before_the_first_row():
    """The error says where to put it."""
    with pytest.raises(SecretMissing, match="PIPELINE_SECRETS__NOPE"):
        async with mask(using="sha256", salt="nope"):
            pass


def test_secrets_are_named_and_never_asked_for_beforehand():
    """`config check` builds steps without a server, and lists what they need."""
    assert MaskOptions(columns=("a",), using="sha256", salt="pepper").secrets == ("pepper",)
    assert MaskOptions(columns=("a",), using="hmac", secret="key").secrets == ("key",)
    assert MaskOptions(columns=("a",), using="redact").secrets == ()
    Mask(MaskOptions(columns=("email",), using="hmac", secret="key"), context([column("email")]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"using": "hmac"}, "needs `secret`"),
        ({"using": "sha256", "secret": "key"}, "`secret` is an option of `using: hmac`"),
        ({"using": "hmac", "secret": "key", "salt": "pepper"}, "`salt` is an option of `using: sha256`"),
        ({"using": "partial", "with": "x"}, "`with` is an option of `using: redact`"),
        ({"using": "redact", "keep": 2}, "`keep` is an option of `using: partial`"),
        ({"using": "md5"}, "sha256"),
        ({"using": "partial", "keep": -1}, "greater than or equal to 0"),
        ({"using": "sha256", "columns": []}, "at least 1"),
        ({"using": "sha256", "pepper": "x"}, "Extra inputs"),
    ],
)
def test_options_that_do_not_fit_together(options: dict[str, Any], message: str):
    """A setting that would have no effect is a mistake."""
    with pytest.raises(ValidationError, match=message):
        MaskOptions.model_validate({"columns": ["email"], **options})
