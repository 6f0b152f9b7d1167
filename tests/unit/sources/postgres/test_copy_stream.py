"""Decoding COPY in binary format. tests/contract/source/test_copy_stream.py compares with Postgres."""

import struct
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.json import encode

from pipeline_processing.formats.csv import Csv
from pipeline_processing.model import CsvOptions
from pipeline_processing.ports import Template
from pipeline_processing.rows.lines import Lines
from pipeline_processing.rows.projection import Projection
from tests.properties import examples
from tests.unit.sources.postgres.copied import (
    DONE,
    HEADER,
    TRAILER,
    TYPES,
    CopyMalformed,
    CopyStream,
    message,
    numeric,
    row,
    sent,
    taken,
)

UUID = bytes.fromhex("a0eebc999c0b4ef8bb6d6bb9bd380a11")
VALUES: dict[tuple[str, bytes], tuple[Any, str]] = {
    ("bool", b"\1"): (True, "t"),
    ("bool", b"\0"): (False, "f"),
    ("int2", struct.pack("!h", -32768)): (-32768, "-32768"),
    ("int4", struct.pack("!i", 2147483647)): (2147483647, "2147483647"),
    ("int8", struct.pack("!q", -(2**63))): (-(2**63), "-9223372036854775808"),
    ("float4", struct.pack("!f", 1.5)): (Raw(b"1.5"), "1.5"),
    ("float8", struct.pack("!d", -1e-5)): (Raw(b"-1e-05"), "-1e-05"),
    ("float8", struct.pack("!d", float("nan"))): (Raw(b"NaN"), "NaN"),
    ("float8", struct.pack("!d", float("-inf"))): (Raw(b"-Infinity"), "-Infinity"),
    ("numeric", numeric([12, 3400], 0, 2)): (Raw(b"12.34"), "12.34"),
    ("numeric", numeric([5], -2, 9, 0x4000)): (Raw(b"-0.000000050"), "-0.000000050"),
    ("numeric", numeric([1], 3, 0)): (Raw(b"1000000000000"), "1000000000000"),
    ("numeric", numeric([], 0, 0, 0xD000)): (Raw(b"Infinity"), "Infinity"),
    ("text", 'a "ключ"'.encode()): ('a "ключ"', 'a "ключ"'),
    ("varchar", b""): ("", ""),
    ("bpchar", b"a   "): ("a   ", "a   "),
    ("name", b"id"): ("id", "id"),
    ("uuid", UUID): ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",) * 2,
    ("date", struct.pack("!i", 9514)): ("2026-01-18",) * 2,
    ("date", struct.pack("!i", -(2**31))): ("-infinity",) * 2,
    ("date", struct.pack("!i", -746117)): ("0044-03-15 BC",) * 2,
    ("timestamp", struct.pack("!q", 500_000)): ("2000-01-01T00:00:00.5", "2000-01-01 00:00:00.5"),
    ("timestamptz", struct.pack("!q", -1)): ("1999-12-31T23:59:59.999999+00:00", "1999-12-31 23:59:59.999999+00"),
    ("timestamptz", struct.pack("!q", 2**63 - 1)): ("infinity",) * 2,
    ("json", b'{"a":\r\n1}'): (Raw(b'{"a":  1}'), '{"a":\r\n1}'),
    ("jsonb", b'\1{"a": "\xc3\xa9"}'): (Raw('{"a": "é"}'.encode()), '{"a": "é"}'),
}
SOME_ROWS = [
    row(b"\0\0\0\7", b"first"),
    row(None, None),
    row(b"\xff\xff\xff\xff", 'zwölf "'.encode()),
    row(b"\0\0\0\0", b""),
]
SOME_LINES = b'{"n":7,"t":"first"}\n{"n":null,"t":null}\n{"n":-1,"t":"zw\xc3\xb6lf \\""}\n{"n":0,"t":""}\n'
SOME_TYPES = ("int4", "text")
OBJECT = Template(((0, b'{"n":'), (1, b',"t":')), b"}\n")


@pytest.mark.parametrize(("type_name", "sent_as"), VALUES)
def test_carried_values_equal_those_of_a_cursor(type_name: str, sent_as: bytes):
    """In the form "json" with their types, and in the form "text"."""
    as_json, as_text = VALUES[type_name, sent_as]

    (natural,), _ = taken([type_name], None, [sent([row(sent_as)])])
    (text,), _ = taken([type_name], None, [sent([row(sent_as)])], carry="text")

    assert (natural, type(natural[0]), text) == ((as_json,), type(as_json), (as_text,))


def test_every_type_has_a_sample():
    assert {type_name for type_name, _ in VALUES} == TYPES


@pytest.mark.parametrize("type_name", sorted(TYPES))
def test_null_is_null_in_every_type(type_name: str):
    stream = [sent([row(None)])]
    pair = Template(((0, b"["), (0, b",")), b"]")

    assert taken([type_name], None, stream)[0] == [(None,)]
    assert taken([type_name], None, stream, carry="text")[0] == [(None,)]
    assert taken([type_name], [pair], stream)[0] == [(Raw(b"[null,null]"),)]


@pytest.mark.parametrize("type_name", ["float4", "float8", "numeric"])
def test_numbers_that_json_lacks_are_strings_among_others(type_name: str):
    """As single values they stay words, which formats quote."""
    value = {"float4": b"\x7f\xc0\0\0", "float8": b"\xff\xf0" + bytes(6), "numeric": numeric([], 0, 0, 0xF000)}[
        type_name
    ]
    word = b"NaN" if type_name == "float4" else b"-Infinity"

    values, _ = taken([type_name], [0, Template(((0, b""),), b"")], [sent([row(value)])])

    assert values == [(Raw(word), Raw(b'"' + word + b'"'))]


def test_values_are_only_those_that_are_asked_for():
    """In the order asked for, some of them merged."""
    outputs = [1, Template(((1, b""), (0, b',"n":')), b""), 1]

    values, _ = taken(SOME_TYPES, outputs, [sent(SOME_ROWS[:2])])

    assert values == [("first", Raw(b'"first","n":7'), "first"), (None, Raw(b'null,"n":null'), None)]


def test_merged_text_is_text():
    merged = Template(((1, b""), (0, b",")), b"", CsvOptions())

    values, _ = taken(SOME_TYPES, [merged], [sent(SOME_ROWS[2:3])], carry="text")

    assert values == [('"zwölf """,-1',)]


# -- borders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11])
def test_messages_may_be_cut_anywhere(size: int):
    """Also between the bytes of a header."""
    stream = sent(SOME_ROWS) + message(b"Z", b"I")

    lines, passed = taken(SOME_TYPES, OBJECT, [stream[at : at + size] for at in range(0, len(stream), size)])

    assert (lines, passed) == (SOME_LINES, DONE + message(b"Z", b"I"))


def test_a_stream_may_be_cut_once_at_every_byte():
    stream = sent(SOME_ROWS)

    for at in range(len(stream) + 1):
        assert taken(SOME_TYPES, OBJECT, [stream[:at], stream[at:]]) == (SOME_LINES, DONE)


def test_copy_data_have_no_borders_of_rows():
    """A row may be spread over several, or several may share one; messages may stand between them."""
    content = HEADER + b"".join(SOME_ROWS) + TRAILER
    notice = message(b"N", b"SNOTICE\0\0")

    for size in range(1, len(content) + 1):
        pieces = [content[at : at + size] for at in range(0, len(content), size)]
        stream = notice.join(message(b"d", piece) for piece in pieces) + message(b"d", b"") + DONE
        lines, passed = taken(SOME_TYPES, OBJECT, [stream])
        assert (lines, passed) == (SOME_LINES, notice * (len(pieces) - 1) + DONE)


def test_a_header_may_be_extended():
    content = HEADER[:15] + struct.pack("!i", 5) + b"later" + SOME_ROWS[0] + TRAILER

    for size in (1, 4, len(content)):
        pieces = [message(b"d", content[at : at + size]) for at in range(0, len(content), size)]
        assert taken(SOME_TYPES, OBJECT, [b"".join(pieces) + DONE])[0] == b'{"n":7,"t":"first"}\n'


def test_other_messages_are_passed_on_as_they_come():
    """Even while they aren't complete, so that large ones need no memory."""
    stream = CopyStream(SOME_TYPES, None, carry="json")
    error = message(b"E", b"S" * 100)

    assert stream.feed(error[:3]) == b""
    assert stream.feed(error[3:50]) == error[:50]
    assert stream.feed(error[50:] + message(b"Z", b"I")) == error[50:] + message(b"Z", b"I")


def test_the_size_of_a_message_is_known_from_its_beginning():
    """A reader can refuse a row that is too large before it has arrived."""
    stream = CopyStream(SOME_TYPES, None, carry="json")
    content = HEADER + row(b"\0\0\0\1", b"x" * 5000)
    stream.feed(message(b"d", content)[:4])
    assert stream.begun == 0

    stream.feed(message(b"d", content)[4:6])
    assert stream.begun == len(content)

    stream.feed(message(b"d", content)[6:])
    assert (stream.begun, stream.rows) == (0, 1)

    stream.feed(message(b"d", row(b"\0\0\0\1", b"x" * 5000)[:100]))
    assert stream.begun == 2 + 8 + 4 + 5000


# -- what is held back ---------------------------------------------------------------------------

LONG = [row(numeric([number], weight, 0), b"x" * 5) for number, weight in [(1, 0), (2, 99), (3, 2), (4, 150), (5, 20)]]
LONG_TYPES = ("numeric", "text")


@pytest.mark.parametrize("outputs", [None, Template(((1, b"["), (0, b",")), b"]\n"), [Template(((0, b""),), b"")]])
@pytest.mark.parametrize("carry", ["json", "text"])
def test_rows_wait_until_a_full_batch_is_taken(outputs: Any, carry: str):
    """Wherever the stream is cut, nothing is lost, and all other messages come in their places."""
    error = message(b"E", b"an error")
    streams = [
        b"".join(message(b"d", part) + error for part in [HEADER + LONG[0], *LONG[1:], TRAILER]) + DONE,
        message(b"d", HEADER + b"".join(LONG) + TRAILER) + error + DONE,
    ]
    for stream in streams:
        expected = taken(LONG_TYPES, outputs, [stream], carry=carry)
        for size in range(1, len(stream) + 1):
            chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
            assert in_batches(outputs, chunks, carry=carry) == expected


def in_batches(outputs: Any, chunks: list[bytes], *, carry: str) -> tuple[bytes | list[Any], bytes]:
    """What arrives while a batch waits to be taken is held back behind it, whatever it is."""
    reader = CopyStream(LONG_TYPES, outputs, carry=carry, batch_bytes=300)
    reader.row_bytes = 1000
    passed, made = b"", []
    for number, chunk in enumerate([*chunks, *[b""] * 20]):
        passed += reader.feed(chunk)
        assert reader.size <= 300 + 1000
        if number % 2:
            made.append(reader.take())
    if all(isinstance(some, list) for some in made):
        return [values for some in made for values in some], passed
    return b"".join(map(bytes, made)), passed


def test_what_is_behind_rows_that_wait_waits_too():
    """Errors and the end, too; other rows don't overtake."""
    error = message(b"E", b"an error")
    reader = CopyStream(["numeric"], None, carry="text", batch_bytes=600)
    rows = [row(numeric([1], 100, 0))] * 3

    assert reader.feed(message(b"d", HEADER + rows[0]) + error + message(b"d", rows[1])) == error
    assert (reader.rows, reader.size > 401, reader.begun) == (2, True, 0)
    assert reader.feed(message(b"d", rows[2]) + error) == b""
    assert reader.feed(message(b"d", TRAILER) + DONE) == b""
    assert [len(value) for (value,) in reader.take()] == [401, 401]
    assert reader.feed(b"") == error + DONE
    assert [len(value) for (value,) in reader.take()] == [401]
    assert (reader.feed(b""), reader.rows) == (b"", 0)


@pytest.mark.parametrize("outputs", [None, Template(((0, b""),), b"\n")])
def test_a_row_that_becomes_large_waits_for_its_permission(outputs: Template | None):
    """It isn't decoded before. A column that nobody asks for doesn't count."""
    large = row(numeric([1], 25_000, 0), b"x")
    stream = sent([row(numeric([1], 0, 0), b"x"), large])
    reader = CopyStream(["numeric", "text"], outputs, carry="json", batch_bytes=1000)

    assert reader.feed(stream) == b""
    assert (reader.rows, 100_001 <= reader.begun <= 100_020) == (1, True)
    reader.take()
    assert (reader.feed(b""), reader.rows, reader.begun > 100_000) == (b"", 0, True)
    reader.row_bytes = reader.begun
    assert (reader.feed(b""), reader.rows, reader.begun, reader.size > 100_000) == (DONE, 1, 0, True)

    other = CopyStream(["numeric", "text"], [1], carry="json", batch_bytes=1000)
    assert (other.feed(stream), other.rows) == (DONE, 2)


def test_rows_that_nobody_wants_any_more():
    """Those that are decoded, held back or still to come."""
    rows = [row(numeric([1], 100, 0))] * 9
    stream = sent(rows)
    reader = CopyStream(["numeric"], None, carry="text", batch_bytes=500)
    assert reader.feed(stream[:150]) == b""
    reader.discard()

    assert (reader.rows, reader.feed(b"")) == (0, b"")
    assert (reader.feed(stream[150:]), reader.rows, reader.begun) == (DONE, 0, 0)


def test_rows_are_counted_until_they_are_taken():
    stream = CopyStream(SOME_TYPES, OBJECT, carry="json")
    stream.feed(sent(SOME_ROWS))
    assert (stream.rows, stream.size >= len(SOME_LINES)) == (4, True)

    lines = stream.take()

    assert isinstance(lines, Lines)
    assert [bytes(lines[at : at + 1]) for at in range(len(lines))] == SOME_LINES.splitlines(keepends=True)
    assert (stream.rows, stream.size, len(stream.take())) == (0, 0, 0)


# -- text ----------------------------------------------------------------------------------------

TEXTS = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from('",\\\r\n\t\0\x1f;é🦉')), max_size=60)


@given(st.lists(TEXTS, min_size=1, max_size=4))
@examples(500)
def test_json_strings_are_those_of_msgspec(texts: list[str]):
    outputs = Template(tuple((at, b"") for at in range(len(texts))), b"\n")

    line, _ = taken(["text"] * len(texts), outputs, [sent([row(*(text.encode() for text in texts))])])

    assert line == b"".join(map(encode, texts)) + b"\n"


OPTIONS = st.builds(
    lambda delimiter, null, line_end: CsvOptions(
        delimiter=delimiter, null=null.replace(delimiter, ""), line_end=line_end
    ),
    st.sampled_from(",;\t|-: +\\"),
    st.sampled_from(["", "NULL", "\\N", "t", "7", "-", "NaN"]),
    st.sampled_from(["lf", "crlf"]),
)


@given(st.lists(st.none() | TEXTS | st.sampled_from(["\\.", "", "NULL", "\\N", "t"]), min_size=1, max_size=4), OPTIONS)
@examples(500)
def test_fields_are_those_of_csv(texts: list[str | None], options: CsvOptions):
    """Including the lone `\\.`, which would end the data for older versions of COPY."""
    names = tuple(f"c{number}" for number in range(len(texts)))
    outputs = Csv(names, fixed=True, options=options).template(Projection.of(names), whole=True)
    assert outputs is not None
    values = [None if text is None else text.encode() for text in texts]

    line, _ = taken(["text"] * len(texts), outputs, [sent([row(*values)])], carry="text")

    assert line == Csv(fixed=True, options=options).encode([texts])


@given(st.sampled_from(sorted(VALUES)), OPTIONS)
@examples(500)
def test_fields_of_all_types_are_those_of_csv(value: tuple[str, bytes], options: CsvOptions):
    """A delimiter or a marker of null may occur in numbers and times."""
    type_name, sent_as = value
    _, text = VALUES[value]
    outputs = Csv(("a",), fixed=True, options=options).template(Projection.of(("a",)), whole=True)
    assert outputs is not None

    line, _ = taken([type_name], outputs, [sent([row(sent_as)])], carry="text")

    assert line == Csv(fixed=True, options=options).encode([[text]])


@pytest.mark.parametrize(
    "text",
    [
        b"\xff",
        b"a" * 40 + b"\xc3",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
        b"\x80",
        b"\xf0\x80\x80\x80",
    ],
)
@pytest.mark.parametrize("type_name", ["text", "json", "jsonb"])
@pytest.mark.parametrize("outputs", [None, Template(((0, b""),), b"\n"), Template(((0, b""),), b"\n", CsvOptions())])
def test_text_must_be_utf8(text: bytes, type_name: str, outputs: Template | None):
    """A database in SQL_ASCII may hold anything."""
    value = b"\1" + text if type_name == "jsonb" else text

    with pytest.raises(UnicodeDecodeError):
        taken([type_name], outputs, [sent([row(b"ok" if value == text else b"\1ok"), row(value)])], carry="text")


# -- what isn't the answer to a COPY -------------------------------------------------------------


def data(*contents: bytes) -> bytes:
    return b"".join(message(b"d", content) for content in contents)


MALFORMED = {
    "signature": data(b"PGCOPY\n\xff\r\n\1" + bytes(8)),
    "flags": data(HEADER[:11] + b"\0\1\0\0" + bytes(4)),
    "extension": data(HEADER[:15] + b"\xff\xff\xff\xff"),
    "length of a message": b"d\0\0\0\3",
    "huge message": b"d\xff\xff\xff\xff",
    "length of another message": b"Z\x80\0\0\0",
    "too few columns": data(HEADER, b"\0\1"),
    "too many columns": data(HEADER, b"\0\3"),
    "count of columns": data(HEADER, b"\xff\xfe"),
    "length of a value": data(HEADER, b"\0\2\xff\xff\xff\xfe"),
    "length of an integer": data(HEADER, row(b"\0\0\0", b"")),
    "bytes after the trailer": data(HEADER, TRAILER, b"\0"),
    "no trailer": data(HEADER, SOME_ROWS[0]) + DONE,
    "half a row": data(HEADER, SOME_ROWS[0][:-1]) + DONE,
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_stream_is_refused(what: str):
    """Then it stays refused, and the rows before are still there."""
    stream = CopyStream(SOME_TYPES, OBJECT, carry="json")

    with pytest.raises(CopyMalformed):
        stream.feed(MALFORMED[what])

    with pytest.raises(CopyMalformed, match="before"):
        stream.feed(b"")
    assert bytes(stream.take()) in (b"", b'{"n":7,"t":"first"}\n')


@pytest.mark.parametrize(
    ("type_name", "value"),
    [
        ("bool", b""), ("int2", b"\0"), ("int4", bytes(5)), ("int8", bytes(4)), ("float4", bytes(8)),
        ("float8", bytes(4)), ("uuid", bytes(15)), ("date", bytes(8)), ("timestamp", bytes(4)), ("timestamptz", b""),
        ("json", b""), ("jsonb", b""), ("jsonb", b"\1"), ("jsonb", b"\2{}"), ("numeric", bytes(7)),
        ("numeric", b"\0\1" + bytes(6)),
        ("numeric", b"\xff\xff" + bytes(6)), ("numeric", numeric([10_000], 0, 0)),
        ("numeric", numeric([1], 0, 0x4000)), ("numeric", numeric([1], 0, 0, 0x1000)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("outputs", [None, Template(((0, b""),), b"\n"), Template(((0, b""),), b"\n", CsvOptions())])
def test_a_malformed_value_is_refused(type_name: str, value: bytes, outputs: Template | None):
    with pytest.raises(CopyMalformed):
        taken([type_name], outputs, [sent([row(value)])], carry="json")


def test_a_hostile_length_takes_no_memory():
    """Of two gigabytes that are announced, only what arrives is stored."""
    stream = CopyStream(["text"], None, carry="json")

    stream.feed(data(HEADER, b"\0\1\x7f\xff\xff\xff") + b"d\x7f\xff\xff\xff" + b"x" * 1000)

    assert (stream.rows, stream.begun) == (0, 2**31 - 5 + 6)


def test_zeros_before_a_number_are_left_out():
    """Postgres sends none, and JSON forbids them."""
    values, _ = taken(["numeric"], None, [sent([row(numeric([0, 0, 7], 2, 0)), row(numeric([], 5, 1))])])

    assert values == [(Raw(b"7"),), (Raw(b"0.0"),)]


def test_what_it_is_asked_for_must_be_possible():
    with pytest.raises(KeyError, match="xml"):
        CopyStream(["xml"], None, carry="json")
    with pytest.raises(ValueError, match="csv"):
        CopyStream(["text"], None, carry="csv")
    for index in (-1, 1):
        with pytest.raises(IndexError):
            CopyStream(["text"], [index], carry="json")
        with pytest.raises(IndexError):
            CopyStream(["text"], Template(((index, b""),), b"\n"), carry="json")


@given(st.data(), st.sampled_from(["json", "text"]))
@examples(2_000)
def test_mutated_streams_never_crash(drawn: st.DataObject, carry: str):
    """They are refused, or read as something else."""
    names = drawn.draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=6))
    stream = bytearray(sent([row(*(value for _, value in names))] * 3))
    for at in drawn.draw(st.lists(st.integers(0, len(stream) - 1), max_size=6)):
        stream[at] = drawn.draw(st.sampled_from([0, 1, 0x27, 0x40, 0x7F, 0x80, 0xC0, 0xFE, 0xFF]) | st.integers(0, 255))
    del stream[drawn.draw(st.just(len(stream)) | st.integers(0, len(stream))) :]
    cuts = sorted(drawn.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    line = Template(tuple((at, b",") for at in range(len(names))), b"\n", drawn.draw(st.none() | OPTIONS))
    outputs = drawn.draw(st.sampled_from([None, line, [line, 0]]))
    batch_bytes = drawn.draw(st.sampled_from([20, 200, 2**40]))
    reader = CopyStream([type_name for type_name, _ in names], outputs, carry=carry, batch_bytes=batch_bytes)

    try:
        for start, end in pairwise([0, *cuts, len(stream)]):
            reader.feed(bytes(stream[start:end]))
            reader.take()
    except (CopyMalformed, UnicodeDecodeError):
        reader.take()
