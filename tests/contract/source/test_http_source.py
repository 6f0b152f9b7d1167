"""The HTTP source against a real server: every way through the pages, faults, and pages that aren't any."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from pipeline_processing.errors import (
    AccessDenied,
    PipelineError,
    QueryInvalid,
    SecretMissing,
    SourceDataInvalid,
    Throttled,
    UpstreamUnavailable,
)
from pipeline_processing.http.client import HttpUpstream
from pipeline_processing.kinds import text_of
from pipeline_processing.sources.http.options import HttpSourceConfig
from pipeline_processing.sources.http.source import HttpSource
from tests.contract.source.reading import RowBatches
from tests.contract.source.source_backends import http_source, read, reading
from tests.unit.stepped_clock import START, SteppedClock
from tests.upstream_api import (
    Handler,
    Raw,
    Reply,
    UpstreamApi,
    cut_off,
    first,
    json_of,
    linked,
    linked_by_header,
    numbered,
    share_of,
    with_cursor,
)

RECORDS = [{"id": number, "name": f"name {number}"} for number in range(250)]
IDS = [record["id"] for record in RECORDS]


@pytest_asyncio.fixture
async def api() -> AsyncIterator[UpstreamApi]:
    async with UpstreamApi() as opened:
        yield opened


def config(api: UpstreamApi, **options: Any) -> HttpSourceConfig:
    return HttpSourceConfig.model_validate(
        {"url": api.url("/rows"), "columns": {"id": {"kind": "integer", "required": True}, "name": "text"}, **options}
    )


async def ids(options: HttpSourceConfig, source: HttpSource | None = None) -> list[int]:
    return [row["id"] for row in await read(source or http_source(), options)]


async def keep(batches: RowBatches, rows: list[Any]) -> None:
    """Also those before an error."""
    async for batch in batches:
        rows += batch


CURSOR = {"cursor": {"path": "meta.cursor", "param": "cursor"}}
STYLES: dict[str, tuple[Callable[..., Handler], dict[str, Any]]] = {
    "links": (linked, {"records": "data.items", "pages": {"next_link": "links.next"}}),
    "links in the header": (linked_by_header, {"pages": {"next_link_header": True}}),
    "cursors": (with_cursor, {"records": "items", "pages": {**CURSOR, "optional": True}}),
    "numbers": (numbered, {"records": "items", "pages": {"page_number": {}}}),
}
styles = pytest.mark.parametrize(("handler", "options"), STYLES.values(), ids=STYLES)
LINKS = STYLES["links"][1]


@styles
@pytest.mark.parametrize("size", [1000, 250, 100, 7])
async def test_every_way_through_the_pages(size: int, handler: Callable[..., Handler], options: Any, api: UpstreamApi):
    """Every record once and in order, whether pages are full or not; each page is asked for once."""
    api.on("/rows", handler(RECORDS, size=size))

    assert await ids(config(api, **options)) == IDS
    pages = -(-len(RECORDS) // size)
    assert len(api.asked) == pages + ("page_number" in options["pages"])
    assert len({asked.raw for asked in api.asked}) == len(api.asked)


@styles
async def test_no_records(handler: Callable[..., Handler], options: Any, api: UpstreamApi):
    """An empty first page is all there is."""
    api.on("/rows", handler([], size=10))

    assert await ids(config(api, **options)) == []


@styles
async def test_a_share_of_requests_fails(handler: Callable[..., Handler], options: Any, api: UpstreamApi):
    """With a third of all requests failing, every record arrives, once."""
    api.on("/rows", handler(RECORDS, size=20))
    api.faults += [share_of(0.2, Reply(status=503), seed=3), share_of(0.2, Raw(b""), seed=4)]
    fast = http_source(clock=SteppedClock())

    assert await ids(config(api, max_retries=50, **options), fast) == IDS


async def test_links_before_the_records(api: UpstreamApi):
    """Where in the page the link stands doesn't matter."""
    api.on("/rows", linked(RECORDS, size=30, links_first=True))

    assert await ids(config(api, **LINKS)) == IDS


async def test_empty_pages_in_the_middle(api: UpstreamApi):
    """A page without records but with a link isn't the end."""
    pages: dict[str, Any] = {"1": [1], "2": [], "3": [], "4": [4]}

    def answer(asked: Any) -> Any:
        number = asked.query.get("page", "1")
        link = f"?page={int(number) + 1}" if number != "4" else None
        return {"data": {"items": [{"id": one} for one in pages[number]]}, "links": {"next": link}}

    api.on("/rows", answer)

    assert await ids(config(api, **LINKS)) == [1, 4]


async def test_page_sizes(api: UpstreamApi):
    """The size is asked for, and an API that gives fewer records a page gives all of them as well."""
    api.on("/rows", numbered(RECORDS, size=100, first=0, param="p"))
    pages = {"page_number": {"param": "p", "first": 0, "size_param": "n", "size": 200}}

    assert await ids(config(api, records="items", pages=pages)) == IDS
    assert [asked.raw for asked in api.asked] == [f"/rows?p={number}&n=200" for number in range(4)]


@pytest.mark.parametrize(
    ("handler", "pages", "said"),
    [
        (
            with_cursor,
            {"cursor": {"path": "meta.next", "param": "cursor"}},
            "in 'meta', only 'cursor'. Correct `cursor`",
        ),
        (linked, {"next_link": "links.Next"}, "in 'links', only 'next'. Correct `next_link`"),
        (linked, {"next_link": "next"}, "no key 'next', only 'data', 'links'. Correct `next_link`"),
    ],
)
async def test_a_wrong_path_to_the_next_page(handler: Callable[..., Handler], pages: Any, said: str, api: UpstreamApi):
    """It fails the run, and names the keys that are there: the first page must not pass for all of them."""
    api.on("/rows", handler(RECORDS, size=100))
    records = "items" if handler is with_cursor else "data.items"

    with pytest.raises(SourceDataInvalid, match=re.escape(said)) as raised:
        await read(http_source(), config(api, records=records, pages=pages))

    assert str(raised.value).startswith("Dataset 'records', page 1: ")
    assert len(api.asked) == 1


async def test_an_only_page_without_a_cursor(api: UpstreamApi):
    """An API that leaves the cursor out where there is one page only needs `optional: true`."""
    api.on("/rows", with_cursor(RECORDS, size=1000))

    with pytest.raises(SourceDataInvalid, match="set `optional: true`"):
        await ids(config(api, records="items", pages=CURSOR))
    assert await ids(config(api, records="items", pages={**CURSOR, "optional": True})) == IDS


async def test_one_page_that_is_the_list(api: UpstreamApi):
    """Without `records` and `pages` the body is all."""
    api.on("/rows", RECORDS)

    assert await ids(config(api)) == IDS


async def test_access_goes_along_to_every_page(api: UpstreamApi):
    """The secret that the options name, and their headers, are sent with each request."""
    api.on("/rows", linked(RECORDS, size=100))
    await ids(config(api, auth={"bearer": "crm_token"}, headers={"X-Tenant": "t"}, **LINKS))

    sent = [(asked.headers["Authorization"], asked.headers["X-Tenant"]) for asked in api.asked]
    assert sent == [("Bearer s3cret of crm_token", "t")] * 3


async def test_a_secret_that_there_is_not(api: UpstreamApi):
    """It is told before the first row of any dataset is read."""

    def refuse(name: str) -> Any:
        raise SecretMissing(name, available=[])

    source = http_source(secret=refuse)
    with pytest.raises(SecretMissing, match="crm_token"):
        async with source.snapshot({"a": config(api), "b": config(api, auth={"bearer": "crm_token"})}):
            pass
    assert api.asked == []


@pytest.mark.parametrize("carry", ["json", "text"])
@pytest.mark.parametrize(
    ("kind", "written", "exact"),
    [
        ("number", b"1E400", "1" + "0" * 400),
        ("number", b"0.10", "0.10"),
        ("number", b"1e5", "100000"),
        ("number", b"1234567890123456789012345678901234567890", "1234567890123456789012345678901234567890"),
        ("float", b"1E400", "1e+400"),
        ("text", b'"\\ud83d\\ude00\\u00e9"', "😀é"),
    ],
)
async def test_values_on_the_wire(kind: str, written: bytes, exact: str, carry: str, api: UpstreamApi):
    """What the API writes is what is carried, digit by digit and character by character."""
    api.on("/rows", [{"v": written}])
    [row] = await read(http_source(), config(api, columns={"v": kind}), carry=carry)

    assert text_of(row["v"]) == exact


async def test_taken_at_is_when_it_was_opened(api: UpstreamApi):
    """An API has no snapshot: the time before anything was asked is a safe one to go on from later."""
    clock = SteppedClock()
    async with http_source(clock=clock).snapshot({"records": config(api)}) as snapshot:
        clock.pass_(60)
        assert snapshot.taken_at == START


# -- batches -------------------------------------------------------------------------------------


async def test_batches_of_large_pages(api: UpstreamApi):
    """A page of many records comes in batches of a thousand, one of wide records in smaller ones."""
    api.on("/rows", [{"id": number, "name": "x" * 10} for number in range(2500)])
    api.on("/wide", [{"id": number, "name": "x" * 100_000} for number in range(50)])
    async with reading(http_source(), config(api)) as batches:
        assert [len(batch) async for batch in batches] == [1000, 1000, 500]
    async with reading(http_source(), config(api, url=api.url("/wide"))) as batches:
        assert [len(batch) async for batch in batches] == [11, 11, 11, 11, 6]


async def test_rows_arrive_while_the_page_is_still_written(api: UpstreamApi):
    """A page isn't waited for as a whole."""
    rest = asyncio.Event()
    api.on("/rows", Reply([{"id": number} for number in range(10_000)], halfway=rest))
    async with asyncio.timeout(20), reading(http_source(), config(api)) as batches:
        assert len(await anext(batches)) == 1000
        rest.set()
        assert sum([len(batch) async for batch in batches]) == 9000


async def test_the_next_page_is_asked_for_meanwhile(api: UpstreamApi):
    """While one batch is worked on, the next is already on its way; no more than one."""
    api.on("/rows", linked(RECORDS, size=10))
    async with reading(http_source(), config(api, **LINKS)) as batches:
        await anext(batches)
        async with asyncio.timeout(10):
            while len(api.asked) < 2:  # noqa: ASYNC110 - the server is in this loop
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert len(api.asked) == 2


async def test_leaving_in_the_middle_of_an_answer(api: UpstreamApi):
    """An answer that hangs doesn't hold whoever leaves, and its connection is closed."""
    api.on("/rows", Reply(RECORDS, halfway=asyncio.Event()))
    async with asyncio.timeout(10):
        async with reading(http_source(), config(api)):
            while not api.asked:  # noqa: ASYNC110 - the server is in this loop
                await asyncio.sleep(0.01)


async def test_one_answer_at_a_time(api: UpstreamApi, monkeypatch: pytest.MonkeyPatch):
    """A page's answer is closed before the next is asked for, however many there are."""
    api.on("/rows", linked(RECORDS, size=10))
    answers = 0
    get = HttpUpstream.get

    @asynccontextmanager
    async def counted(upstream: HttpUpstream, url: str, **options: Any) -> AsyncIterator[Any]:
        nonlocal answers
        assert answers == 0
        async with get(upstream, url, **options) as answer:
            answers += 1
            yield answer
            answers -= 1

    monkeypatch.setattr(HttpUpstream, "get", counted)

    assert await ids(config(api, **LINKS)) == IDS
    assert answers == 0


# -- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "is truncated"),
        (b"<html>private</html>", "isn't JSON"),
        (b"null", "isn't JSON"),
        ({"error": "private"}, "no list of records at 'data.items'"),
        ({"data": {"items": None}}, "there is null, not a list"),
        ({"data": {"items": ["private"]}}, "Record 1 is text, but must be an object"),
        ({"data": {"items": [{"id": 1}, {"id": "private"}]}}, "Record 2 has text for column 'id'"),
        ({"data": {"items": [{"id": 1}, {"name": "private"}]}}, "Record 2 has no value, or null, for column 'id'"),
        ({"data": {"items": [{"id": 1, "name": b'"\\ud83d"'}]}}, "Record 1 has text for column 'name'"),
        (b'{"data": {"items": [{"id": 1}', "is truncated"),
        (b'{"data": {"items": [{"id": 1}]}, "data": 1}', "'data' twice"),
        ({"data": {"items": [{"id": 1}]}, "links": {"next": {"private": 1}}}, "link to the next page isn't text"),
        (b'{"data": {"items": [{"id": 1, "name": "\xff"}]}}', "UTF-8"),
        (b'{"data": {"items": [{"id": ' + b"9" * 200_000 + b"}]}}", "digits"),
        (b'{"data": {"items": [{"id": 1, "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}]}}", "nested too deeply"),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_pages_that_are_none(body: Any, said: str, api: UpstreamApi):
    """The message has dataset, page and record, and what is expected there; never what came. It isn't tried again."""
    api.on("/rows", body)
    with pytest.raises(SourceDataInvalid) as raised:
        await read(http_source(), config(api, **LINKS))

    assert said in str(raised.value)
    assert str(raised.value).startswith("Dataset 'records', page 1: ")
    assert "private" not in str(raised.value)
    assert (raised.value.exit_code, raised.value.retryable, len(api.asked)) == (1, False, 1)


async def test_records_are_numbered_over_all_pages(api: UpstreamApi):
    """The record in a message can be found: it is counted from the dataset's first."""
    api.on("/rows", linked([*RECORDS[:30], {"id": "x"}], size=20))
    with pytest.raises(SourceDataInvalid, match="page 2: Record 31 has text for column 'id'"):
        await read(http_source(), config(api, **LINKS))


@pytest.mark.parametrize("missing", [1, 1000])
async def test_a_page_that_breaks_off(missing: int, api: UpstreamApi):
    """Rows that were handed out can't be asked for again: the run's attempt fails, for now."""
    body = json_of({"data": {"items": [{"id": number, "name": "x" * 500} for number in range(5000)]}})
    api.faults.append(first(1, cut_off(body, missing=missing)))
    got: list[Any] = []
    async with reading(http_source(), config(api, **LINKS)) as batches:
        with pytest.raises(UpstreamUnavailable, match=r"'records', page 1: .*broke off in the middle") as raised:
            await keep(batches, got)

    assert got
    assert raised.value.retryable
    assert len(api.asked) == 1


async def test_an_answer_of_unknown_length_that_ends_early(api: UpstreamApi):
    """Nothing but the JSON tells that the rest is missing."""
    whole = json_of({"links": {"next": None}, "data": {"items": RECORDS}})
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    api.faults.append(first(1, Raw(head + whole[:-100])))
    with pytest.raises(UpstreamUnavailable, match="before its JSON was complete"):
        await read(http_source(), config(api, **LINKS))

    api.faults.append(first(1, Raw(head + whole)))
    assert await ids(config(api, **LINKS)) == IDS


@pytest.mark.parametrize(
    ("reply", "kind", "exit_code"),
    [
        (Reply(status=401), AccessDenied, 77),
        (Reply(status=404), SourceDataInvalid, 1),
        (Reply(status=503), UpstreamUnavailable, 69),
        (Reply(status=429, headers={"Retry-After": "3600"}), Throttled, 75),
    ],
)
async def test_refusals_on_a_later_page(reply: Reply, kind: type[PipelineError], exit_code: int, api: UpstreamApi):
    """They are told with the page, after the rows before it."""
    api.on("/rows", linked(RECORDS, size=100))
    api.faults.append(lambda asked: reply if "page=2" in asked.raw else None)
    got: list[Any] = []
    async with reading(http_source(), config(api, max_retries=0, **LINKS)) as batches:
        with pytest.raises(kind, match="'records', page 2: ") as raised:
            await keep(batches, got)

    assert len(got) == 100
    assert raised.value.exit_code == exit_code


async def test_a_link_to_another_server(api: UpstreamApi):
    """It isn't followed, with or without the secret: nothing arrives there."""
    async with UpstreamApi() as other:
        api.on("/rows", {"data": {"items": RECORDS}, "links": {"next": other.url("/rows")}})
        with pytest.raises(SourceDataInvalid, match="another scheme, host or port"):
            await ids(config(api, auth={"bearer": "crm_token"}, **LINKS))

        assert other.asked == []


@pytest.mark.parametrize("next_page", ["/rows", "?", "/rows?page=1"])
async def test_going_round_in_circles(next_page: str, api: UpstreamApi):
    """An API whose pages lead back fails the run, and doesn't fill the disk."""
    api.on("/rows", {"data": {"items": RECORDS}, "links": {"next": next_page}})
    with pytest.raises(SourceDataInvalid, match="already read"):
        await ids(config(api, **LINKS))

    assert len(api.asked) <= 2


async def test_an_api_that_never_ends(api: UpstreamApi):
    """At most `max_pages` are asked for."""
    api.on("/rows", lambda asked: {"items": [{"id": int(asked.query["page"])}]})
    with pytest.raises(SourceDataInvalid, match="more than 5 pages"):
        await ids(config(api, records="items", pages={"page_number": {}}, max_pages=5))

    assert len(api.asked) == 5


@pytest.mark.parametrize("agency", ["..", ".", ""])
async def test_an_agency_that_leads_elsewhere(agency: str, api: UpstreamApi):
    """Nothing is asked where a value would name another path."""
    with pytest.raises(QueryInvalid, match=r"'records'.*lead to another path"):
        await read(http_source(), config(api, url=api.url("/agencies/{agency_id}/rows")), {"agency_id": agency})

    assert api.asked == []
