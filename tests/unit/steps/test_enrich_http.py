"""`enrich_http` on an API in memory. tests/contract/steps has it on a real one."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from pydantic import ValidationError

from pipeline_processing.errors import InvalidStep, PipelineError, SourceDataInvalid, StepFailed, UnknownColumn
from pipeline_processing.http.options import UpstreamOptions
from pipeline_processing.http.urls import origin_of
from pipeline_processing.kinds import column_of_kind, form_of
from pipeline_processing.rows.columns import Column, Columns, Kind
from pipeline_processing.steps.enrich_http import EnrichHttp, EnrichHttpOptions
from pipeline_processing.steps.step import Batch
from tests.unit.steps.step_context import CollectedErrors, batch, context

MIB = 1024 * 1024
TEXTS = (column_of_kind("id", Kind.TEXT, "json", origins=["id"]),)
INTEGERS = (column_of_kind("id", Kind.INTEGER, "json"),)


@dataclass
class Body:
    """An answer; `left` is what is left of it."""

    left: bytes
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)

    async def read(self, size: int = -1) -> bytes:
        piece, self.left = (self.left, b"") if size < 0 else (self.left[:size], self.left[size:])
        return piece


@dataclass
class Api:
    """An API in memory, and the services that give it. `answer` makes a body of the values asked for."""

    answer: Callable[[list[str]], Any] = lambda values: [{"id": value, "label": value.upper()} for value in values]
    urls: list[str] = field(default_factory=list)
    options: list[UpstreamOptions] = field(default_factory=list)
    is_open: bool = False
    asking: int = 0
    most: int = 0

    @asynccontextmanager
    async def upstream(self, options: UpstreamOptions) -> AsyncIterator["Api"]:
        self.options.append(options)
        self.is_open = True
        try:
            yield self
        finally:
            self.is_open = False

    @asynccontextmanager
    async def get(
        self, url: str, *, query: Mapping[str, str] | None = None, shown_as: str | None = None
    ) -> AsyncIterator[Body]:
        assert self.is_open
        assert "{values}" in (shown_as or ""), "messages never show keys"
        assert query is None
        self.urls.append(url)
        self.asking += 1
        self.most = max(self.most, self.asking)
        try:
            for _ in range(3):  # lets others ask meanwhile
                await asyncio.sleep(0)
            body = self.answer(values_of(url))
            if isinstance(body, PipelineError):
                raise body
            yield Body(body if isinstance(body, bytes) else json.dumps(body).encode(), url)
        finally:
            self.asking -= 1

    @property
    def asked(self) -> list[list[str]]:
        """The values of each request, as a server reads them."""
        return [values_of(url) for url in self.urls]


def values_of(url: str) -> list[str]:
    return [unquote(each) for each in urlsplit(url).query.removeprefix("ids=").split(",")]


def options(**changes: Any) -> EnrichHttpOptions:
    """The step as a job config has it."""
    written = {"url": "https://upstream/labels?ids={values}", "on": "id", "key": "id", "add": {"label": "label"}}
    return EnrichHttpOptions.model_validate(written | changes)


def enrich(
    api: Api, columns: Any = TEXTS, *, errors: CollectedErrors | None = None, carry: str = "json", **changes: Any
) -> EnrichHttp:
    """The step, not open yet."""
    built = context(columns, services=api, row_errors=errors, carry=carry)  # type: ignore[arg-type]  # it only asks
    return EnrichHttp(options(**changes), built)


def rows(*ids: Any) -> Batch:
    return batch(*({"id": each} for each in ids))


# -- asking --------------------------------------------------------------------------------------


async def test_columns_are_added_behind_the_others():
    """Found values, and null where the API has no record, and where the key is null."""
    api = Api(lambda values: [{"id": value, "label": value.upper()} for value in values if value != "gone"])
    async with enrich(api) as step:
        done = await step(rows("a", "gone", None, "a"))

    assert [row["label"] for row in done.rows] == ["A", None, None, "A"]
    assert api.asked == [["a", "gone"]]


async def test_keys_go_out_in_batches_and_once():
    """At most `batch` in one request; what was found, or wasn't, isn't asked for again."""
    api = Api(lambda values: [{"id": value, "label": "x"} for value in values if value != "3"])
    async with enrich(api, batch=2) as step:
        await step(rows("1", "2", "3", "2", "4", "5"))
        await step(rows("3", "1", "6"))

    assert api.asked == [["1", "2"], ["3", "4"], ["5"], ["6"]]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_requests_at_once_than_allowed(concurrency):
    """And as many, where there is so much to ask."""
    api = Api()
    async with enrich(api, batch=1, concurrency=concurrency) as step:
        done = await step(rows(*map(str, range(20))))

    assert api.most == concurrency
    assert [row["label"] for row in done.rows] == [str(number) for number in range(20)]


async def test_long_keys_go_out_in_several_requests():
    """Servers refuse URLs of more than some 8,000 characters, however few keys are in them."""
    api = Api()
    keys = [f"{number}{'é' * 500}" for number in range(20)]
    async with enrich(api) as step:
        done = await step(rows(*keys, "x" * 9000))

    assert [row["label"] for row in done.rows] == [key.upper() for key in [*keys, "x" * 9000]]
    assert len(api.urls) == 11
    assert all(len(url) <= 8000 for url in api.urls[:-1])


async def test_answers_too_large_to_be_read_at_once():
    """They are asked for in halves until they fit, and from then on with as few keys; every row has its own record."""

    def wide(values: list[str]) -> Any:
        return [{"id": value, "label": value + "x" * MIB} for value in values]

    api = Api(answer=wide)
    async with enrich(api, batch=10, concurrency=1) as step:
        first = await step(rows(*map(str, range(10))))
        before = len(api.asked)
        second = await step(rows(*map(str, range(10, 20))))

    for done, keys in (first, range(10)), (second, range(10, 20)):
        assert [row["label"] for row in done.rows] == [f"{key}{'x' * MIB}" for key in keys]
    assert [len(each) for each in api.asked[:before]] == [10, 5, 2, 3, 5, 2, 3]
    assert [len(each) for each in api.asked[before:]] == [2] * 5


async def test_the_api_is_opened_with_its_own_options_and_closed():
    """What the step adds to them isn't the API's business: it would split what is shared by those who ask it."""
    api = Api()
    changes = {"auth": {"bearer": "labels"}, "max_retries": 7}
    async with enrich(api, **changes):
        assert api.is_open
    assert not api.is_open
    assert api.options == [UpstreamOptions.model_validate(changes)]
    assert options(**changes).secrets == ("labels",)


async def test_an_error_of_one_request_is_the_steps():
    """It comes out as it is, once the other requests are given up."""
    api = Api(lambda values: SourceDataInvalid("refused") if "7" in values else [])
    async with enrich(api, batch=1, concurrency=2) as step:
        with pytest.raises(SourceDataInvalid, match=r"^refused$"):
            await step(rows(*map(str, range(20))))

    assert api.asking == 0
    assert len(api.urls) < 20


# -- injection -----------------------------------------------------------------------------------

HOSTILE = [
    "'\"", "$1", "\\", "é🦉", "../../admin", "?x=1", "&ids=2", "#top", "a\nb", "a\r\nHost: evil", "a/b", "a,b",
    "%2e%2e", "@evil.example", "//evil.example", "{values}", " ", "+", "a;b", "a=b", "\0", "http://evil.example/",
    "...", "a..",
]  # fmt: skip


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://upstream/labels?ids={values}", "/labels"),
        ("https://upstream:8443/v1/labels?x=1&ids={values}&y=2", "/v1/labels"),
    ],
)
@given(keys=st.lists(st.text() | st.sampled_from(HOSTILE), unique=True, min_size=1, max_size=5))
async def test_in_a_query_a_key_is_a_value(url, path, keys):
    """Whatever it holds, it arrives as it is, in the one parameter, at the configured host and path."""
    api = Api(lambda values: [])
    async with enrich(api, url=url) as step:
        await step(rows(*keys))

    before, after = url.split("{values}")
    for asked in api.urls:
        assert origin_of(asked) == origin_of(before)
        assert urlsplit(asked).path == path
        assert asked.startswith(before)
        assert asked.endswith(after)
        assert not set(asked[len(before) : len(asked) - len(after)]) & set("&?#/=+ \\\n\r\0'\"")
    arrived = [unquote(each) for each in ",".join(a[len(before) : len(a) - len(after)] for a in api.urls).split(",")]
    assert arrived == ([key for key in keys if key] or [""])


@given(keys=st.lists(st.text() | st.sampled_from([*HOSTILE, ".", "..", ""]), unique=True, min_size=1, max_size=5))
async def test_in_a_path_a_key_is_a_segment(keys):
    """It can't add one, or lead out of where it stands: one that would has no record, and isn't asked for."""
    api = Api(lambda values: [])
    async with enrich(api, url="https://upstream/labels/{values}/all?x=1") as step:
        await step(rows(*keys))

    for asked in api.urls:
        _, labels, values, last = urlsplit(asked).path.split("/")
        assert (labels, last, urlsplit(asked).query) == ("labels", "all", "x=1")
        assert values not in ("", ".", "..")
        assert origin_of(asked) == ("https", "upstream", 443)
    sent = [unquote(each) for asked in api.urls for each in urlsplit(asked).path.split("/")[2].split(",")]
    assert sent == [key for key in keys if key not in ("", ".", "..")]


async def test_half_a_character_is_no_key():
    """It can't be sent, so there is no record of it."""
    api = Api()
    async with enrich(api) as step:
        done = await step(rows("\ud800", "a"))

    assert [row["label"] for row in done.rows] == [None, "A"]


@pytest.mark.parametrize(
    "url",
    [
        "https://{values}/labels",
        "https://up{values}stream/labels",
        "https://upstream:{values}/labels",
        "{values}",
        "https://upstream/labels",
        "https://upstream/labels?a={values}&b={values}",
        "https://upstream/labels?a={values}&b={agency_id}",
        "https://upstream/labels?a={}",
        "https://upstream/labels#{values}",
        "https://user:password@upstream/labels?a={values}",
        "ftp://upstream/{values}",
        "/labels?ids={values}",
        "https://upstream/../{values}",
    ],
)
def test_urls_that_a_key_could_change(url):
    """`{values}` stands once, in path or query, of a URL that is whole without it."""
    with pytest.raises(ValidationError):
        options(url=url)


# -- answers -------------------------------------------------------------------------------------


async def answered(body: bytes | Any, *ids: Any, **changes: Any) -> tuple[list[Any], list[str]]:
    """The label of each row that is left, and the reasons of the others."""
    errors = CollectedErrors()
    columns = changes.pop("columns", TEXTS)
    async with enrich(Api(lambda values: body), columns, errors=errors, **changes) as step:
        done = await step(rows(*ids or ("a",)))
    return [row["label"] for row in done.rows], [reason for _, reason, _ in errors.rejected]


@pytest.mark.parametrize("carry", ["json", "text"])
@pytest.mark.parametrize(
    ("kind", "sent", "natural"),
    [
        ("text", b'"\\u00e9\\n"', "é\n"),
        ("integer", b"5.0", 5),
        ("number", b"123456789012345678901234567890.50", None),
        ("float", b"1e23", 1e23),
        ("boolean", b"true", True),
        ("uuid", b'"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"', "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("text", b"null", None),
        ("json", b"null", None),
    ],
)
async def test_values_are_carried_as_their_kind(kind, sent, natural, carry):
    """Exactly, and in the form of the dataset's format, so that later steps know them."""
    add = {"label": {"field": "label", "kind": kind}}
    body = b'[{"id": "a", "label": %s}]' % sent
    step = enrich(Api(lambda values: body), add=add, carry=carry)
    assert step.columns.find("label") == column_of_kind("label", Kind(kind), carry, origins=["id"])

    async with step:
        (row,) = (await step(rows("a"))).rows
    label = bytes(row["label"]).decode() if isinstance(row["label"], Raw) else row["label"]
    expected = sent.decode() if kind == "number" else None
    if natural is not None:
        carried = form_of(Kind(kind), carry).carried(natural)
        expected = bytes(carried).decode() if isinstance(carried, Raw) else carried
    assert label == expected


@pytest.mark.parametrize("carry", ["json", "text"])
async def test_documents_stay_as_they_are(carry):
    """All their digits and keys, in one line."""
    body = b'[{"id": "a",\n "label": {"b": [1.50,\r\n 1e400], "b": "x\\n\\u00e9"}}]'
    (label,), _ = await answered(body, carry=carry, add={"label": {"field": "label", "kind": "json"}})

    text = bytes(label).decode() if carry == "json" else label
    assert isinstance(label, Raw if carry == "json" else str)
    assert text == '{"b":[1.50,1e400],"b":"x\\n\\u00e9"}'


@pytest.mark.parametrize(
    ("kind", "sent", "why"),
    [
        ("text", b"5", "is not text"),
        ("text", b'{"secret": 1}', "is not text"),
        ("integer", b'"5"', "is not an integer"),
        ("integer", b"1.5", "is not an integer"),
        ("number", b"1e999999999", "out of range"),
        ("boolean", b"1", "is not a boolean"),
        ("timestamptz", b'"secret"', "is not a timestamp"),
        ("uuid", b'"secret"', "is not a uuid"),
    ],
)
async def test_a_value_of_another_kind_is_a_row_error(kind, sent, why):
    """Nothing is turned into what it isn't; the reason names the field, and never its value. Other rows go on."""
    body = b'[{"id": "a", "label": %s}, {"id": "b", "label": null}]' % sent
    labels, reasons = await answered(body, "a", "b", "a", add={"label": {"field": "label", "kind": kind}})

    assert labels == [None]
    assert len(reasons) == 2
    assert why in reasons[0]
    assert "'label'" in reasons[0]
    assert "secret" not in reasons[0]


async def test_fields_that_are_not_there():
    """They are null, as a field below what is no object is; a required one is a row error, also where it is null."""
    body = b'[{"id": "a"}, {"id": "b", "at": 5}, {"id": "c", "at": {"label": "C"}}, {"id": "d", "at": {"label": null}}]'
    ids = ("a", "b", "c", "d")

    assert await answered(body, *ids, add={"label": "at.label"}) == ([None, None, "C", None], [])
    labels, reasons = await answered(body, *ids, add={"label": {"field": "at.label", "required": True}})
    assert labels == ["C"]
    assert reasons == ["the record of its 'id' has no 'at.label', which is required"] * 3


async def test_where_records_and_keys_stand():
    """Lists and keys may stand below others."""
    body = {"data": {"items": [{"ref": {"id": 5}, "label": "five"}, {"ref": {"id": None}, "label": "none"}]}}
    ids = (5, 6)

    changes = {"columns": INTEGERS, "records": "data.items", "key": "ref.id"}
    assert await answered(body, *ids, **changes) == (["five", None], [])


async def test_records_that_nobody_asked_for_are_left_alone():
    """An API may give more than it was asked for; what isn't asked for isn't read, so it may be anything."""
    body = [{"id": 7, "label": 5}, {"id": [], "label": "x"}, {"id": "x", "label": "X"}, {"id": 5, "label": "five"}]
    columns = INTEGERS

    assert await answered(body, 5, 8, columns=columns) == (["five", None], [])


async def test_keys_of_unknown_type():
    """Behind a python step they are looked for as text."""
    columns = Columns((Column("id", typed=False),))
    body = [{"id": 5, "label": "five"}, {"id": "a", "label": "A"}]

    labels, reasons = await answered(body, 5, "5", "a", {}, columns=columns)
    assert labels == ["five", "five", "A"]
    assert reasons == ["its 'id' isn't of the type of the key that it is looked up by"]


@pytest.mark.parametrize("missing", [None, "drop", "fail"])
async def test_missing_rows(missing):
    """As `missing` has it; tests/unit/steps/test_enrich_table.py has the rest."""
    labels, reasons = await answered([{"id": "a", "label": "A"}], "a", "gone", None, missing=missing)

    assert labels == (["A", None, None] if missing is None else ["A"])
    assert len(reasons) == (2 if missing == "fail" else 0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>secret</html>", "isn't JSON"),
        (b'{"error": "secret"}', "isn't a list of records"),
        (b'["secret"]', "a record of the answer isn't an object"),
        (b'[{"ID": "secret"}]', "a record of the answer has no field 'id'"),
        (b"[" + b" " * (4 * MIB) + b"]", "the answer for a single key has more than the 4 MiB"),
    ],
)
async def test_answers_that_are_not_what_was_described(body, message):
    """The message says what was expected, and nothing of what came."""
    with pytest.raises(SourceDataInvalid, match=message) as failed:
        await answered(body)
    assert "secret" not in str(failed.value)


async def test_two_records_with_one_key_fail_the_step():
    """Also where one is spelled in another way. The message names the field, and not the key."""
    body = [{"id": 17, "label": "a"}, {"id": "17", "label": "b"}]
    with pytest.raises(StepFailed, match="two records with the same 'id'") as failed:
        await answered(body, 17, columns=INTEGERS)
    assert "17" not in str(failed.value)


# -- what is refused -----------------------------------------------------------------------------


def test_what_does_not_fit_the_rows():
    """It is found without a server."""
    with pytest.raises(UnknownColumn, match="'ids'"):
        enrich(Api(), on="ids")
    with pytest.raises(InvalidStep, match="would replace the column 'id'"):
        enrich(Api(), add={"id": "label"})
    with pytest.raises(InvalidStep, match="can't compare values of 'id', a column of the rows"):
        enrich(Api(), (column_of_kind("id", Kind.JSON, "json"),))


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 0},
        {"concurrency": 0},
        {"cache_rows": -1},
        {"add": {}},
        {"add": {"x": {"field": "a", "kind": "int"}}},
        {"add": {"x": {"kind": "text"}}},
        {"add": {"x": "a..b"}},
        {"key": ""},
        {"records": ".a"},
        {"missing": "null"},
        {"colour": 1},
    ],
)
def test_options_are_checked(changes):
    """Unknown ones are refused, and values that mean nothing."""
    with pytest.raises(ValidationError):
        options(**changes)


def test_on_is_a_key_as_people_write_it():
    """YAML 1.1 takes a bare `on` for true."""
    written = 'url: "https://upstream/labels?ids={values}"\non: id\nkey: id\nadd: {label: label}'
    assert EnrichHttpOptions.model_validate(yaml.safe_load(written)).on == "id"
