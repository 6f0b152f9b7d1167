"""CSV as COPY writes it. tests/contract/source holds all of Postgres's types, tests/contract/formats all options."""

from csv import reader
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline_processing.errors import DataError, StepFailed
from pipeline_processing.formats.csv import AS_COPY_DOES, Csv
from pipeline_processing.formats.formats import new_format
from pipeline_processing.model import CsvOptions, FormatName
from pipeline_processing.rows.projection import Projection
from pipeline_processing.rows.untouched import remembering
from tests.contract.source.helpers import parsed_csv


def written(
    *rows: dict[str, Any],
    columns: tuple[str, ...] = ("a", "b"),
    fixed: bool = True,
    options: CsvOptions = AS_COPY_DOES,
) -> str:
    csv = Csv(columns, fixed=fixed, options=options)
    body = csv.encode(list(rows)) if rows else b""
    return (csv.head() + body).decode()


def test_null_and_the_empty_string():
    """Null is nothing, the empty string is quoted."""
    rows = [{"a": None, "b": ""}, {"a": "", "b": None}, {"a": None, "b": None}, {"a": "", "b": ""}]

    assert written(*rows) == 'a,b\n,""\n"",\n,\n"",""\n'


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("x,y", '"x,y"'), ('"', '""""'), ("\n", '"\n"'), ("\r", '"\r"'), ("a\r\nb", '"a\r\nb"'), (" x ", " x "),
        ("'", "'"), ("\\", "\\"), ("NULL", "NULL"), ("🦉", "🦉"), ("\t", "\t"), ("\u2028", "\u2028"),
    ],
)  # fmt: skip
def test_quotes(text: str, field: str):
    """Only where they are needed, and doubled inside; alone in a line or beside others."""
    assert written({"a": text, "b": "1"}) == f"a,b\n{field},1\n"
    assert written({"a": None, "b": text}) == f"a,b\n,{field}\n"
    assert written({"a": text}, columns=("a",)) == f"a\n{field}\n"


def test_a_single_column():
    """A null alone is an empty line, an empty string isn't."""
    assert written({"a": None}, {"a": ""}, {"a": "x"}, columns=("a",)) == 'a\n\n""\nx\n'


def test_rows_without_columns():
    """Each is an empty line, as COPY writes it."""
    assert written({}, {}, columns=()) == "\n\n\n"


def test_what_once_ended_the_data_of_copy():
    r"""A line of nothing but \. would end what older versions of COPY read."""
    assert written({"a": "\\."}, columns=("a",)) == 'a\n"\\."\n'


def test_headers_are_quoted_like_fields():
    """A column may have any name."""
    assert written(columns=("a,b", 'c"d', "e\nf", "g")) == '"a,b","c""d","e\nf",g\n'


@pytest.mark.parametrize("fixed", [True, False])
def test_no_rows(fixed: bool):
    """The header is there all the same, unless there is to be none: then the artifact is empty."""
    assert written(fixed=fixed) == "a,b\n"
    assert written(fixed=fixed, options=CsvOptions(delimiter=";")) == "a;b\n"
    assert written(fixed=fixed, options=CsvOptions(header=False)) == ""


@pytest.mark.parametrize("fixed", [True, False])
def test_without_a_header(fixed: bool):
    """Only rows are written, in the columns' order; it is the first row's where only the rows tell."""
    rows = [{"a": "1", "b": None}, {"a": "2", "b": "x"}]
    assert written(*rows, fixed=fixed, options=CsvOptions(header=False)) == "1,\n2,x\n"


@pytest.mark.parametrize("delimiter", [";", "\t", "|", " ", "^", "]", "\\", "-", "'"])
def test_another_delimiter(delimiter: str):
    """A field that has it is quoted, one that has a comma isn't; so in the header."""
    options = CsvOptions(delimiter=delimiter)
    body = written({"a": f"x{delimiter}y", "b": "x,y"}, columns=("a", f"b{delimiter}"), options=options)
    assert body == f'a{delimiter}"b{delimiter}"\n"x{delimiter}y"{delimiter}x,y\n'


@pytest.mark.parametrize("null", ["NULL", "\\N", " ", "é", "[x]"])
def test_another_text_for_null(null: str):
    """The empty string is nothing then, and the same text as null's is quoted, alone in a line or beside others."""
    options = CsvOptions(null=null)
    rows = [{"a": None, "b": ""}, {"a": null, "b": "x"}, {"a": f"{null}{null}", "b": "NUL"}]
    assert written(*rows, options=options) == f'a,b\n{null},\n"{null}",x\n{null}{null},NUL\n'
    alone = [{"a": None}, {"a": null}, {"a": ""}]
    assert written(*alone, columns=(null,), options=options) == f'"{null}"\n{null}\n"{null}"\n\n'


def test_values_of_steps_that_look_like_null():
    """Whatever a value is, its text is what counts."""
    options = CsvOptions(null="0")
    assert written({"a": 0, "b": None}, {"a": 0.0, "b": "0"}, options=options) == 'a,b\n"0",0\n"0","0"\n'


def test_the_longest_row():
    """Rows are told apart whatever is quoted in them, and whatever stands between fields."""
    for options in (AS_COPY_DOES, CsvOptions(delimiter=";"), CsvOptions(delimiter="\t", null="NULL")):
        csv = Csv(fixed=True, options=options)
        short, long = ["1", "2"], ['a"\nb', f"{options.delimiter}\n\n"]
        assert csv.longest_row(csv.encode([short, long, short])) == len(csv.encode([long]))


def test_everything_is_quoted_but_nulls():
    """So is the header."""
    options = CsvOptions(quote="all")
    assert written({"a": 1, "b": 'x"'}, {"a": None, "b": ""}, options=options) == '"a","b"\n"1","x"""\n,""\n'


def test_line_ends():
    """Those in values stay as they are."""
    options = CsvOptions(line_end="crlf")
    assert written({"a": "x\ny", "b": None}, options=options) == 'a,b\r\n"x\ny",\r\n'
    csv = Csv(fixed=True, options=options)
    assert csv.longest_row(csv.encode([["1", "\r\n"], ["1", "2"]])) == len('1,"\r\n"\r\n')


@pytest.mark.parametrize(
    ("encoding", "encoded"), [("latin-1", b"a;\xfc\n\xe9;?\n"), ("windows-1252", b"a;\xfc\n\xe9;\x80\n")]
)
def test_encodings(encoding: str, encoded: bytes):
    """What the encoding lacks fails the run, or is replaced, in the header as in values."""
    options = CsvOptions(delimiter=";", encoding=encoding, unencodable="replace")
    csv = Csv(("a", "ü"), fixed=True, options=options)
    assert csv.head() + csv.encode([["é", "€"]]) == encoded

    strict = Csv(fixed=True, options=CsvOptions(encoding=encoding))
    with pytest.raises(DataError, match=r"the character '\\u0416', which \S+ can't encode"):
        strict.encode([["Ж"]])


def test_a_byte_order_mark():
    """Once a file, before the header or the first row."""
    for header in (True, False):
        csv = Csv(("é",), fixed=True, options=CsvOptions(bom=True, header=header))
        assert csv.head() == b"\xef\xbb\xbf" + ("é\n".encode() if header else b"")
        assert csv.encode([["x"]]) == b"x\n"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-7", "iso2022_jp", "rot13", "no-such"])
def test_encodings_without_ascii_are_refused(encoding: str):
    """Rows are cut and delimited by bytes of ASCII."""
    with pytest.raises(ValidationError, match=r"must contain ASCII|isn't a known encoding"):
        CsvOptions(encoding=encoding)


@pytest.mark.parametrize(
    "options",
    [
        {"null": "∅", "encoding": "latin-1"},
        {"null": "?", "encoding": "latin-1", "unencodable": "replace"},
        {"delimiter": "?", "encoding": "latin-1", "unencodable": "replace"},
    ],
)
def test_what_replaces_a_character_is_no_null_and_no_delimiter(options: dict[str, str]):
    """Or a value would be read as null, or as two."""
    with pytest.raises(ValidationError, match=r"`null`.* `\?`|`null` has a character that"):
        CsvOptions(**options)


def test_sources_write_only_what_they_can():
    """They write UTF-8, with quotes where they are needed, and any line end."""
    projection = Projection(("a", "b"), (0, 1))
    for options in (CsvOptions(quote="all"), CsvOptions(encoding="latin-1")):
        assert Csv(fixed=True, options=options).template(projection, whole=True) is None
    template = Csv(fixed=True, options=CsvOptions(line_end="crlf", bom=True)).template(projection, whole=True)
    assert template is not None
    assert template.tail == b"\r\n"


def test_options_reach_the_format():
    """By its name; NDJSON has none."""
    options = CsvOptions(delimiter=";", header=False, null="NULL")
    csv = new_format(FormatName.CSV, header=("a", "b"), fixed=True, csv=options)
    assert csv.head() + csv.encode([["1", None]]) == b"1;NULL\n"
    assert new_format(FormatName.NDJSON, fixed=True, csv=options).head() == b""


class Measured(float):
    """A float that prints itself in another way, as numpy's do."""

    def __repr__(self) -> str:
        return f"Measured({float(self)})"


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (True, "t"),
        (False, "f"),
        (5, "5"),
        (2**100, str(2**100)),
        (1.5, "1.5"),
        (2.0, "2"),
        (-0.0, "-0"),
        (Measured(1.5), "1.5"),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
        (Decimal("1.50"), "1.50"),
        (Decimal("1E+20"), "100000000000000000000"),
        (Decimal("Infinity"), "Infinity"),
        (datetime(2026, 1, 18, 10, 0, 0, 120000, tzinfo=UTC), "2026-01-18 10:00:00.12+00"),
        (datetime(2026, 1, 18, 10, tzinfo=timezone(timedelta(hours=5, minutes=30))), "2026-01-18 10:00:00+05:30"),
        (datetime(2026, 1, 18, 10), "2026-01-18 10:00:00"),  # noqa: DTZ001 - a timestamp without time zone
        (date(2026, 1, 18), "2026-01-18"),
        (time(10, 0), "10:00:00"),
        (b"\x00\xff", "\\x00ff"),
        ({"a": [1, Decimal("1.50"), None]}, '"{""a"": [1, 1.50, null]}"'),
        ([], "[]"),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (remembering(1e15, "1e+15"), "1e+15"),
        (remembering({"a": 1}, '{"a" :1}'), '"{""a"" :1}"'),
    ],
)
def test_values_of_steps(value: Any, field: str):
    """What a step returned is written as Postgres prints such a value; what it left alone, as it came."""
    assert written({"a": value, "b": "x"}) == f"a,b\n{field},x\n"


def test_a_changed_document_is_written_anew():
    """It remembers its carried form only until it is changed."""
    read = remembering({"a": {"b": 1}}, "carried")
    read["a"]["b"] = 2

    assert written({"a": read, "b": None}) == 'a,b\n"{""a"": {""b"": 2}}",\n'


def test_columns_that_only_the_rows_tell():
    """The first row gives the header of every artifact; later rows may lack columns, in any order, over all batches."""
    csv = Csv(("other",), fixed=False)
    assert csv.head() == b"other\n"
    assert csv.encode([{"b": 1, "a": 2}, {"a": 3, "b": 4}]) + csv.encode([{"a": 5}]) == b"1,2\n4,3\n,5\n"
    assert csv.head() == b"b,a\n"


def test_a_column_that_comes_late():
    """The header is written already: the step is told."""
    with pytest.raises(StepFailed, match=r"'b'.*one header"):
        written({"a": 1}, {"a": 1, "b": 2}, fixed=False)


def test_half_a_character():
    """UTF-8 can't hold it, so the step is told."""
    with pytest.raises(StepFailed, match="surrogate"):
        written({"a": "\ud800", "b": None}, fixed=False)


def test_rows_made_for_it_are_written_like_dicts():
    """Both kinds of rows give the same bytes, constants included."""
    projection = Projection(("x", "y", "z"), (1, 0), ("c,",))
    records = [("1", None), ("", "b"), (None, 'q"')]
    made, dicts = Csv(fixed=True), Csv(fixed=True)

    assert made.encode(made.row_maker(projection)(records)) == dicts.encode(projection.rows(records))


TEXTS = st.none() | st.text(alphabet=st.sampled_from('ab,"\r\n\\. ') | st.characters(codec="utf-8"), max_size=8)


@given(rows=st.lists(st.lists(TEXTS, min_size=3, max_size=3), min_size=1, max_size=20))
def test_whatever_is_written_is_read_back(rows: list[list[str | None]]):
    """Any text and any null, by the rules of CSV alone."""
    body = written(*(dict(zip("abc", row, strict=True)) for row in rows), columns=("a", "b", "c"))

    assert parsed_csv(body.encode()) == [["a", "b", "c"], *rows]


OPTIONS = st.builds(
    CsvOptions, delimiter=st.sampled_from(";\t|^]"), header=st.booleans(), null=st.sampled_from(["NULL", "\\N"])
)


@given(rows=st.lists(st.lists(TEXTS, min_size=2, max_size=3), min_size=1, max_size=20), options=OPTIONS)
def test_with_other_options_it_is_read_back_by_a_reader_that_isnt_ours(
    rows: list[list[str | None]], options: CsvOptions
):
    """Python's own reader sees the same rows, null as its text."""
    rows = [row[:2] for row in rows]
    body = written(*(dict(zip("ab", row, strict=True)) for row in rows), options=options)

    read = list(reader(StringIO(body, newline=""), delimiter=options.delimiter, strict=True))

    expected = [[options.null if field is None else field for field in row] for row in rows]
    assert read == ([["a", "b"], *expected] if options.header else expected)
