"""The options of `source.http`, and where they lead for a request."""

# ruff: noqa: E501 - tables of samples

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline_processing.errors import QueryInvalid
from pipeline_processing.options.validation import faults_of
from pipeline_processing.rows.columns import Kind
from pipeline_processing.sources.http.options import HttpSourceConfig

ARGUMENTS: dict[str, Any] = {
    "agency_id": 7,
    "run_id": "run-1",
    "since": datetime(2026, 1, 18, 12, 0, 0, 500000, tzinfo=timezone(timedelta(hours=2))),
    "until": None,
}


def config(**options: Any) -> HttpSourceConfig:
    """Options with what is required, unless they say otherwise."""
    return HttpSourceConfig.model_validate({"url": "https://a.example/v1", "columns": {"id": "integer"}, **options})


def test_columns_in_both_spellings():
    """`id: integer` is short for `id: {kind: integer}`; order and names stay."""
    columns = config(columns={"b": "text", "a": {"kind": "number", "path": "x.y", "required": True}})

    assert list(columns.schema_columns) == ["b", "a"]
    assert columns.schema_columns["b"].kind is Kind.TEXT
    assert (columns.schema_columns["a"].path, columns.schema_columns["a"].required) == ("x.y", True)


@pytest.mark.parametrize("carry", ["json", "text"])
def test_columns_as_steps_see_them(carry: str):
    """They are known in full before the first request: name, kind, and that their values come from the source."""
    columns = config(columns={"a": "number", "b": {"kind": "json"}}).columns_in(carry)

    assert columns.complete
    assert [(column.name, column.kind, column.origins, column.unchanged) for column in columns] == [
        ("a", Kind.NUMBER, frozenset({"a"}), True),
        ("b", Kind.JSON, frozenset({"b"}), True),
    ]


FAULTY: dict[str, tuple[dict[str, Any], str]] = {
    "no columns": ({"columns": {}}, "columns"),
    "a kind that there isn't": ({"columns": {"a": "varchar"}}, "'text', 'integer', 'number'"),
    "a key of a column": ({"columns": {"a": {"kind": "text", "null": True}}}, "null: unknown key"),
    "an empty path": ({"columns": {"a": {"kind": "text", "path": "a..b"}}}, "path"),
    "another scheme": ({"url": "ftp://a.example/"}, "http:// or https://"),
    "a password": ({"url": "https://u:s3cret@a.example/"}, "user or a password"),
    "a name in the host": ({"url": "https://{agency_id}.example/"}, "not in the scheme or the host"),
    "a fraction in the query": ({"query": {"a": 1.5}}, "query.a"),
    "half a name in the query": ({"query": {"a": "{since"}}, "can't be read"),
    "a spec in the query": ({"query": {"a": "{since:%Y}"}}, "plain name"),
    "two ways through the pages": ({"records": "x", "pages": {"next_link": "a", "next_link_header": True}}, "has next_link and"),
    "no way through the pages": ({"pages": {}}, "has none"),
    "no header": ({"pages": {"next_link_header": False}}, "next_link_header"),
    "a link in a list": ({"pages": {"next_link": "links.next"}}, "can't stand beside the records"),
    "a link in the records": ({"records": "data", "pages": {"next_link": "data.next"}}, "can't stand beside"),
    "a cursor at the records": ({"records": "data", "pages": {"cursor": {"path": "data", "param": "c"}}}, "beside"),
    "a link around the records": ({"records": "data.items", "pages": {"next_link": "data"}}, "can't stand beside"),
    "an optional count": ({"pages": {"page_number": {}, "optional": True}}, "`next_link` and `cursor` only"),
    "a size that is never sent": ({"pages": {"page_number": {"size": 5}}}, "needs `size_param`"),
    "a parameter twice": ({"query": {"page": 1}, "pages": {"page_number": {}}}, "both set the parameter page"),
    "a size that nobody knows": ({"pages": {"page_number": {"size_param": "n"}}}, "needs `size`"),
    "page and size in one": ({"pages": {"page_number": {"size_param": "page", "size": 5}}}, "must differ"),
    "no pages at all": ({"max_pages": 0}, "max_pages"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "fault"), FAULTY.values(), ids=FAULTY)
def test_options_that_cannot_be_used(options: dict[str, Any], fault: str):
    """Each fault is told by its place, without a password that stands there."""
    with pytest.raises(ValidationError) as raised:
        config(**options)

    told = "\n".join(faults_of(raised.value))
    assert fault in told
    assert "s3cret" not in told


def test_where_it_leads():
    """Arguments stand in path and query; times in UTC, booleans as JSON has them; other parameters as they are."""
    source = config(
        url="https://a.example/{agency_id}/{run_id}?fixed=%20",
        query={"since": "{since}", "flag": True, "count": 5, "text": "{{{x}}} of {agency_id}", "p": "{on}"},
    )

    assert source.first_url({**ARGUMENTS, "x": "a&b", "on": False}) == (
        "https://a.example/7/run-1?fixed=%20&since=2026-01-18T10%3A00%3A00.500000Z&flag=true&count=5"
        "&text=%7Ba%26b%7D%20of%207&p=false"
    )


def test_a_null_is_left_out():
    """A parameter that is nothing but a name which is null isn't sent; an empty one is."""
    source = config(query={"until": "{until}", "empty": "{x}", "after": 1})

    assert source.first_url({**ARGUMENTS, "x": ""}) == "https://a.example/v1?empty=&after=1"


@pytest.mark.parametrize(
    "options", [{"url": "https://a.example/{until}"}, {"url": "https://a.example/?u={until}"}, {"query": {"u": "<{until}"}}]
)  # fmt: skip
def test_a_null_where_it_cannot_be_left_out(options: dict[str, Any]):
    """A URL with a hole in it would ask for something else."""
    with pytest.raises(QueryInvalid, match=r"'until'.*null.*`query`"):
        config(**options).first_url(ARGUMENTS)


@pytest.mark.parametrize("options", [{"url": "https://a.example/{x}"}, {"query": {"q": "{x}"}}])
def test_a_name_that_there_is_not(options: dict[str, Any]):
    """What there is, and how to send what isn't."""
    with pytest.raises(QueryInvalid, match=r"'x'.*agency_id, run_id, since, until.*--param x=VALUE") as raised:
        config(**options).first_url(ARGUMENTS)

    assert raised.value.exit_code == 65


@pytest.mark.parametrize("value", ["..", ".", ""])
def test_values_that_lead_elsewhere(value: str):
    """A param can't climb out of its place in the path, or leave it empty."""
    with pytest.raises(QueryInvalid, match=r"\{x\} would become .* lead to another path"):
        config(url="https://a.example/{x}/rows").first_url({"x": value})


@pytest.mark.parametrize("options", [{"url": "https://a.example/{x}"}, {"query": {"q": "{x}"}}])
def test_half_a_character(options: dict[str, Any]):
    """What UTF-8 doesn't have can't be sent."""
    with pytest.raises(QueryInvalid, match="lone surrogate"):
        config(**options).first_url({"x": "\ud800"})


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_params_stay_values(value: str):
    """Whatever a param holds, braces too, it is one parameter's value and nothing else."""
    url = config(query={"a": "{x}", "b": "1"}).first_url({"x": value, "b": "2"})

    assert url.startswith("https://a.example/v1?")
    assert parse_qsl(urlsplit(url).query, keep_blank_values=True) == [("a", value), ("b", "1")]


def test_times_are_utc():
    """A time of another zone is the same moment in the URL."""
    at = datetime(2026, 1, 18, tzinfo=UTC)

    assert config(query={"t": "{since}"}).first_url({"since": at}).endswith("t=2026-01-18T00%3A00%3A00Z")
