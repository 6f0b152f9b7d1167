"""JSON that is read value by value as it arrives."""

# ruff: noqa: E501 - tables of samples

import json
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.errors import PipelineError, SourceDataInvalid, UpstreamUnavailable
from pipeline_processing.sources.http.json_text import JsonText

LIMIT = 200_000


def text_of(*pieces: bytes, limit: int = LIMIT, is_whole: bool = True) -> JsonText:
    """A document that arrives in these pieces."""
    arriving: Iterator[bytes] = iter([piece for piece in pieces if piece])

    async def read(size: int) -> bytes:
        return next(arriving, b"")

    return JsonText(read, limit=limit, is_whole=is_whole)


async def only_value(text: JsonText) -> Any:
    value = await text.value()
    assert await text.peek() == "", "something stands after it"
    return value


@pytest.mark.parametrize(
    ("document", "value"),
    [
        ("1E400", Decimal("1E400")),
        ("0.10", Decimal("0.10")),
        ("1e5", Decimal("1E5")),
        ("-1.5e-7", Decimal("-1.5E-7")),
        ("1234567890123456789012345678901234567890", 1234567890123456789012345678901234567890),
        ("-0", Decimal("-0")),
        ("0.1234567890123456789012345678901234567890", Decimal("0.1234567890123456789012345678901234567890")),
        ("9" * 131_072, Decimal("9" * 131_072)),
        ("1e131071", Decimal("1e131071")),
        ("1e-16383", Decimal("1e-16383")),
        ('"\\ud83d\\ude00 😀 \\u0000 \\/"', "😀 😀 \0 /"),
        ('"\\ud83d"', "\ud83d"),
        ("\ufeff[1]", [1]),
        (" \r\n\t{ } ", {}),
        ('{"a": 1, "b": [true, false, null]}', {"a": 1, "b": [True, False, None]}),
    ],
)
async def test_values_are_exact(document: str, value: Any):
    """Digits of numbers, characters of text: nothing is rounded, replaced or lost."""
    read = await only_value(text_of(document.encode()))

    assert read == value
    assert str(read) == str(value)
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "document",
    [
        "", "nope", "<html>", "[1,]", "{,}", '{"a"}', '{"a":}', "{a: 1}", "[1 2]", "01", "+1", ".5", "-", "'a'", '"a\nb"',
        '"\\x"', '"\\u12"', "[", '{"a": [1', '"abc', "tru", "NaN", "[Infinity]", "-Infinity", "// x\n1", "[1]]",
    ],
)  # fmt: skip
async def test_what_is_not_json(document: str):
    """Only JSON is read, all of it and nothing else."""
    text = text_of(document.encode())
    with pytest.raises((SourceDataInvalid, AssertionError), match=r"JSON|something stands after it"):
        await only_value(text)


@pytest.mark.parametrize("document", [b'"\xff"', b'"\xc3', b'"\xed\xa0\x80"'])
async def test_what_is_not_utf_8(document: bytes):
    """No byte is guessed."""
    with pytest.raises(SourceDataInvalid):
        await only_value(text_of(document))


@pytest.mark.parametrize(
    "number", ["1e131072", "1e-16384", "9" * 131_073, "0." + "1" * 16_384, "1e999999999", "1e" + "9" * 30, "0e999999", "[1e131071, 1e131071]"]
)  # fmt: skip
async def test_numbers_of_too_many_digits(number: str):
    """What takes a few characters here, but gigabytes once it is written out, is refused."""
    with pytest.raises(SourceDataInvalid, match="digits"):
        await only_value(text_of(number.encode()))


async def test_many_brackets():
    """Depth can't end the process: 100,000 brackets are an error like any other."""
    with pytest.raises(SourceDataInvalid, match="too deeply"):
        await only_value(text_of(b"[" * 100_000 + b"]" * 100_000, limit=10**6))


@pytest.mark.parametrize(
    "value", [b'"' + b"x" * 300_000 + b'"', b"[" + b"1, " * 100_000 + b"1]", b"[1" + b" " * 300_000]
)
async def test_a_value_that_is_too_long(value: bytes):
    """It isn't held, however it arrives; so memory has a bound."""
    pieces = [value[at : at + 1000] for at in range(0, len(value), 1000)]
    with pytest.raises(SourceDataInvalid, match="longer than the limit of 200,000 characters"):
        await text_of(*pieces).value()


async def test_a_long_value_in_many_pieces():
    """Work stays in proportion to the length: a value that arrives in 20,000 pieces is tried a few times only."""
    value = json.dumps(["x" * 1000] * 200)
    text = text_of(*(value[at : at + 10].encode() for at in range(0, len(value), 10)), limit=10**6)
    tries = 0
    scan = text._scan

    def counted(document: str, at: int) -> tuple[Any, int]:
        nonlocal tries
        tries += 1
        return scan(document, at)

    text._scan = counted

    assert await only_value(text) == json.loads(value)
    assert tries < 30


@pytest.mark.parametrize("document", ["", "[1, 2", '{"a": "x', "tru"])
@pytest.mark.parametrize(("is_whole", "kind"), [(True, SourceDataInvalid), (False, UpstreamUnavailable)])
async def test_a_document_that_ends_early(document: str, is_whole: bool, kind: type[PipelineError]):
    """Where HTTP can't tell the end from a lost connection it is worth another try, else the API sends half a page."""
    with pytest.raises(kind):
        await text_of(document.encode(), is_whole=is_whole).value()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.decimals(allow_nan=False, allow_infinity=False, places=5)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


def written(value: Any, ascii_only: bool) -> str:
    match value:
        case Decimal():
            return str(value)
        case list():
            return "[" + " , ".join(written(each, ascii_only) for each in value) + " ]"
        case dict():
            pairs = (f"{json.dumps(key)} : {written(each, ascii_only)}" for key, each in value.items())
            return "{" + ",\n".join(pairs) + "}"
        case str():
            return json.dumps(value, ensure_ascii=ascii_only or not value.isprintable())
        case _:
            return json.dumps(value)


@pytest.mark.parametrize("number", ["0.0", "-1.25e-17", "123456", "1E+5", "10.50", "-0"])
async def test_a_number_in_pieces(number: str):
    """Its first digits are a number, too, and so isn't `1` of `1.`: only what follows tells where it ends."""
    for cut in range(1, len(number)):
        text = text_of(b"[", number[:cut].encode(), number[cut:].encode(), b",", b"2]")
        await text.take("[")

        assert str(await text.value()) == str(json.loads(number, parse_float=Decimal, parse_int=Decimal))
        assert not await text.ended("]")


@given(st.data(), JSON, st.booleans())
async def test_it_does_not_matter_where_pieces_end(data: st.DataObject, value: Any, ascii_only: bool):
    """In the middle of a number, an escape or a character of several bytes: the value is the same."""
    document = written(value, ascii_only).encode("utf-8", "replace")
    cuts = sorted(data.draw(st.sets(st.integers(0, len(document)))) | {0, len(document)})
    pieces = [document[start:end] for start, end in pairwise(cuts)]

    whole, cut = await only_value(text_of(document)), await only_value(text_of(*pieces))

    assert str(cut) == str(whole)
    assert whole == value
