"""One page of an API: records in a JSON document, and what stands beside them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.errors import PipelineError, SourceDataInvalid, UpstreamUnavailable
from pipeline_processing.sources.http.pages import Absent, JsonPage


class Body:
    """An answer with a body that arrives in pieces of so many bytes."""

    url = "http://a.example/"

    def __init__(self, body: bytes, *, piece: int = 10, headers: Mapping[str, str] | None = None) -> None:
        self.headers = {"Content-Length": str(len(body))} if headers is None else headers
        self.left = body
        self._piece = piece

    async def read(self, size: int = -1) -> bytes:
        piece, self.left = self.left[: self._piece], self.left[self._piece :]
        return piece


async def read(document: Any, records: str = "", beside: str = "", **options: Any) -> tuple[list[Any], Any]:
    """All records of a page, and what stands beside them."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    page = JsonPage(Body(body, **options), records=_keys(records), beside=_keys(beside), limit=100_000)
    found: list[Any] = []
    while batch := await page.read(records=3, characters=1000):
        assert len(batch) <= 3
        found += batch
    assert page.count == len(found)
    return found, page.found


def _keys(path: str) -> Sequence[str]:
    return path.split(".") if path else ()


RECORDS = [{"id": number, "next": "no"} for number in range(8)]
LINK = {"next": "/more", "prev": None}


@pytest.mark.parametrize(
    ("page", "records"),
    [
        (RECORDS, ""),
        ({"data": RECORDS}, "data"),
        ({"data": {"items": RECORDS}}, "data.items"),
        ({"a": {"data": [1]}, "data": {"data": [2], "items": RECORDS}, "items": [3]}, "data.items"),
        ({"data": [], "b": {"data": RECORDS}}, "b.data"),
    ],
)
async def test_where_records_stand(page: Any, records: str):
    """In the document itself, or at a path of keys; lists and keys elsewhere mean nothing."""
    assert (await read(page, records))[0] == RECORDS


@pytest.mark.parametrize(
    ("page", "beside", "found"),
    [
        ({"links": LINK, "data": {"items": RECORDS}}, "links.next", "/more"),
        ({"data": {"items": RECORDS}, "links": LINK}, "links.next", "/more"),
        ({"data": {"next": 5, "items": RECORDS}, "next": 6}, "data.next", 5),
        ({"data": {"items": RECORDS, "next": 5}, "next": 6}, "data.next", 5),
        ({"data": {"items": RECORDS, "next": 5}, "next": 6}, "next", 6),
        ({"data": {"items": RECORDS}, "links": {"next": None}}, "links.next", None),
        ({"data": {"items": RECORDS}, "links": None}, "links.next", None),
        ({"data": {"items": RECORDS}, "links": {}}, "links.next", Absent("next", ("links",), ())),
        ({"data": {"items": RECORDS}, "links": []}, "links.next", Absent("next", ("links",), ())),
        ({"data": {"items": RECORDS}, "links": {"Next": 1}}, "links.next", Absent("next", ("links",), ("Next",))),
        ({"data": {"items": RECORDS}, "x": 1}, "links.next", Absent("links", (), ("data", "x"))),
        ({"data": {"items": RECORDS, "x": 1}}, "data.next", Absent("next", ("data",), ("items", "x"))),
        (
            {"x": LINK, "data": {"items": RECORDS, "links": LINK}},
            "links.next",
            Absent("links", (), ("x", "data")),
        ),
        ({"data": {"next": "no", "items": RECORDS}}, "links.next", Absent("links", (), ("data",))),
    ],
)
async def test_what_stands_beside(page: Any, beside: str, found: Any):
    """Before or after the records, at any depth; null, or nothing; never what only has the same name elsewhere."""
    assert await read(page, "data.items", beside) == (RECORDS, found)


@pytest.mark.parametrize("page", [[], {"data": []}, {"data": {"items": []}, "links": LINK}])
async def test_a_page_without_records(page: Any):
    """An empty list is a page like any other."""
    path = "" if page == [] else "data" if page == {"data": []} else "data.items"

    assert (await read(page, path, "links.next" if path else ""))[0] == []


@pytest.mark.parametrize(
    ("page", "records", "said"),
    [
        ({"items": [], "x": 1}, "data", "no list of records at 'data': there is no key 'data', only 'items', 'x'"),
        ({f"k{n}" * 20: n for n in range(21)}, "data", f"'{'k19' * 20}', …."),
        ({"k" * 61: []}, "data", f"only '{'k' * 60}…'"),
        ({}, "data", "there is no key 'data', nor any other"),
        ({"data": {"x": 1}}, "data.items", "there is no key 'items' in 'data', only 'x'"),
        ({"data": None}, "data", "there is null, not a list"),
        ({"data": {"id": 1}}, "data", "there is an object, not a list"),
        ({"data": []}, "data.items", "there is a list in 'data', not an object"),
        ([], "data", "there is a list, not an object"),
        ({"data": []}, "", "no list of records as the whole page"),
        (b"", "", "at its end, expected an object or a list"),
        (b"5", "", "expected an object or a list"),
        (b"<html>row 1</html>", "", "expected an object or a list"),
        (b"[1] [2]", "", "more text after its end"),
        (b"[1 2]", "", "',' or ']'"),
        (b"[1,]", "", "JSON"),
        (b"[,1]", "", "JSON"),
        (b'{"data": [1}', "data", "',' or ']'"),
        (b'{"data": [1] "x": 2}', "data", "',' or '}'"),
        (b'{"data": [1], 5: 2}', "data", "expected a key"),
        (b'{"data": [1], "x" 2}', "data", "expected ':'"),
        (b'{"data": [1], "data": [2]}', "data", "the key 'data' twice"),
        (b'{"data": [1]', "data", "is truncated"),
    ],
)
async def test_what_is_no_such_page(page: Any, records: str, said: str):
    """Each fault says what is missing where, and nothing of what came."""
    with pytest.raises(SourceDataInvalid) as raised:
        await read(page, records)

    assert said in str(raised.value)
    assert "row" not in str(raised.value)


async def test_no_object_on_the_way():
    """What can't hold the path is a fault, in whichever page."""
    with pytest.raises(SourceDataInvalid, match=r"no object at 'links', on the way to 'links.next'"):
        await read({"data": [], "links": "/more"}, "data", "links.next")


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({}, UpstreamUnavailable),
        ({"Content-Length": "5"}, SourceDataInvalid),
        ({"Transfer-Encoding": "chunked"}, SourceDataInvalid),
    ],
)
async def test_a_page_that_ends_early(headers: dict[str, str], kind: type[PipelineError]):
    """An answer of unknown length that ends early is a lost connection; one whose length was right is a wrong page."""
    with pytest.raises(kind):
        await read(b'{"data": [1, 2', "data", headers=headers)


async def test_records_come_as_they_arrive():
    """A large page is never held whole: records are there while most of the body hasn't been asked for."""
    record = {"text": "x" * 100}
    body = Body(b'{"data": [' + b", ".join([json.dumps(record).encode()] * 100_000) + b"]}", piece=65536)
    page = JsonPage(body, records=["data"], limit=100_000)
    total = len(body.left)

    batch = await page.read(records=1000, characters=10_000_000)

    assert batch == [record] * 1000
    assert total - len(body.left) < 300_000


async def test_batches_are_bounded_in_characters():
    """Of wide records only a few make a batch."""
    body = Body(json.dumps(["x" * 1000] * 50).encode(), piece=1000)
    page = JsonPage(body, records=[], limit=100_000)
    sizes = []
    while batch := await page.read(records=1000, characters=3000):
        sizes.append(len(batch))

    assert sum(sizes) == 50
    assert max(sizes) == 3


VALUES = (
    st.none() | st.integers() | st.text(max_size=5) | st.just([1, {"data": []}]) | st.just({"data": {"items": [0]}})
)


@given(
    before=st.dictionaries(st.text(max_size=3), VALUES, max_size=3),
    after=st.dictionaries(st.text(max_size=3), VALUES, max_size=3),
    records=st.lists(VALUES, max_size=7),
    piece=st.integers(1, 50),
)
async def test_any_page_in_any_pieces(before: dict[str, Any], after: dict[str, Any], records: list[Any], piece: int):
    """Whatever surrounds the records, and wherever pieces end, records and link are those of the document."""
    before = {f"b{key}": value for key, value in before.items()}
    after = {f"a{key}": value for key, value in after.items()}
    page = {**before, "data": {**before, "items": records, "next": "n", **after}, **after}

    assert await read(page, "data.items", "data.next", piece=piece) == (records, "n")
