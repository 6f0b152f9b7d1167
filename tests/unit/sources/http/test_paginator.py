"""From page to page of an API."""

from collections.abc import Mapping
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline_processing.errors import SourceDataInvalid
from pipeline_processing.sources.http.options import HttpSourceConfig
from pipeline_processing.sources.http.pages import Absent
from pipeline_processing.sources.http.paginator import Paginator, next_link

URL = "https://a.example/v1/rows?x=%2F"


def paginator(pages: Any = None, **options: Any) -> Paginator:
    config = HttpSourceConfig.model_validate(
        {"url": "https://a.example/v1/rows", "columns": {"a": "text"}, "records": "data", "pages": pages, **options}
    )
    return Paginator(config, URL)


def answer(headers: Mapping[str, str] | None = None, *, url: str = URL) -> Any:
    return SimpleNamespace(headers=headers or {}, url=url)


def urls(path: Paginator, *pages: Any, records: int = 1, headers: Mapping[str, str] | None = None) -> list[str | None]:
    """Where it leads, by what stands beside the records of each page."""
    led = [path.url]
    for found in pages:
        path.go_on(answer(headers, url=path.url or ""), found=found, records=records)
        led.append(path.url)
    return led


def test_one_page():
    """Without `pages` there is one."""
    assert urls(paginator(), None) == [URL, None]


def test_links():
    """Each page's link is followed as it is written, also a relative one; null, empty or none is the end."""
    for last in (None, ""):
        assert urls(paginator({"next_link": "next"}), "?page=%32&y=a%2Fb", "https://A.example:443/z", last) == [
            URL,
            "https://a.example/v1/rows?page=%32&y=a%2Fb",
            "https://A.example:443/z",
            None,
        ]


def test_links_in_the_header():
    """The same by the header Link."""
    path = paginator({"next_link_header": True})
    path.go_on(answer({"Link": '<?page=1>; rel="prev", <?page=3>; rel="next"'}), found=None, records=1)

    assert path.url == "https://a.example/v1/rows?page=3"
    path.go_on(answer(), found=None, records=1)
    assert path.url is None


def test_links_are_relative_to_where_the_answer_came_from():
    """After a redirect within the API, its links are meant from there."""
    path = paginator({"next_link": "next"})
    path.go_on(answer(url="https://a.example/v2/rows"), found="more?x=1", records=1)

    assert path.url == "https://a.example/v2/more?x=1"


@pytest.mark.parametrize(
    "link", ["https://b.example/", "http://a.example/v1", "//b.example/x", "https://a.example:444/"]
)
def test_links_to_others(link: str):
    """Whoever writes the page can't have the secret sent elsewhere: not to another host, port or scheme."""
    with pytest.raises(SourceDataInvalid, match="another scheme, host or port"):
        urls(paginator({"next_link": "next"}), link)


@pytest.mark.parametrize(
    "link", [5, {"href": "/x"}, ["/x"], True, "ftp://a.example/", "https://u:p@a.example/", "\ud800"]
)
def test_links_that_are_none(link: Any):
    """What can't be followed is told, not taken for the end."""
    with pytest.raises(SourceDataInvalid, match="link to the next page"):
        urls(paginator({"next_link": "next"}), link)


def test_cursors():
    """A cursor is sent back as a parameter, encoded, in place of the last one; the rest of the URL stays."""
    path = paginator({"cursor": {"path": "meta.cursor", "param": "after"}})

    assert urls(path, "a/b?&=", 17, "") == [URL, f"{URL}&after=a%2Fb%3F%26%3D", f"{URL}&after=17", None]


@pytest.mark.parametrize("cursor", [True, Decimal("1.5"), ["x"], {"x": 1}, "\ud800"])
def test_cursors_that_are_none(cursor: Any):
    """Only text and integers can be sent back."""
    with pytest.raises(SourceDataInvalid, match="cursor"):
        urls(paginator({"cursor": {"path": "cursor", "param": "after"}}), cursor)


def test_numbers():
    """Pages are counted from the first, with the size beside it."""
    path = paginator({"page_number": {"first": 0, "size_param": "n", "size": 2}})

    assert urls(path, None, None, records=2) == [f"{URL}&page={number}&n=2" for number in range(3)]


def test_the_last_of_numbered_pages():
    """Only an empty one is: an API may give fewer records than it is asked for, on any page."""
    path = paginator({"page_number": {"size_param": "n", "size": 2}})

    assert urls(path, None, None, records=1)[-1] is not None
    assert urls(path, None, records=0)[-1] is None


NEXT = [
    ({"next_link": "links.next"}, "/b", "next_link"),
    ({"cursor": {"path": "links.next", "param": "c"}}, "x", "cursor"),
]
ABSENT = Absent("next", ("links",), ("nextCursor",))


@pytest.mark.parametrize(("pages", "found", "option"), NEXT)
def test_nothing_at_the_path_in_the_first_page(pages: Any, found: str, option: str):
    """It is taken for a wrong path, not for the only page; the keys that are there tell the right one."""
    with pytest.raises(SourceDataInvalid) as raised:
        urls(paginator(pages), ABSENT)

    assert str(raised.value) == (
        "it has nothing at 'links.next', which leads to the next page: there is no key 'next' in 'links', only "
        f"'nextCursor'. Correct `{option}` in the job config. If this API leaves it out where there is only one page, "
        "set `optional: true` beside it."
    )


@pytest.mark.parametrize(("pages", "found", "option"), NEXT)
def test_nothing_at_the_path_in_a_later_page(pages: Any, found: str, option: str):
    """That is how many APIs mark the last one; where the job config says so, also the only one."""
    assert urls(paginator(pages), found, ABSENT)[-1] is None
    assert urls(paginator({**pages, "optional": True}), ABSENT) == [URL, None]


@pytest.mark.parametrize(
    ("pages", "found"),
    [
        ({"next_link": "next"}, ["/b", "/c", "/b"]),
        ({"next_link": "next"}, [URL]),
        ({"cursor": {"path": "c", "param": "c"}}, ["x", "y", "x"]),
    ],
)
def test_going_round_in_circles(pages: Any, found: list[str]):
    """A page that was read already would be exported again and again."""
    with pytest.raises(SourceDataInvalid, match="already read"):
        urls(paginator(pages), *found)


def test_too_many_pages():
    """An API that never ends fails the run at `max_pages`."""
    path = paginator({"page_number": {}}, max_pages=3)
    urls(path, None, None)

    with pytest.raises(SourceDataInvalid, match=r"more than 3 pages.*`max_pages`"):
        urls(path, None)


# -- the header `Link` (RFC 8288) ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "target"),
    [
        ("", None),
        ("nonsense", None),
        ('<http://a.example/?page=2>; rel="next"', "http://a.example/?page=2"),
        ("</x?a=1,2;b=3>; rel=next", "/x?a=1,2;b=3"),
        ('</1>; rel="prev", </3>; rel="next", </9>; rel="last"', "/3"),
        ('</1>;rel=prev,</3>;title="a, <b>; rel=next; \\" c";rel="next"', "/3"),
        ('</3>; rel="start next"', "/3"),
        ('</3>; REL="NEXT"', "/3"),
        ('</3>; rel="nextish"', None),
        ('</3>; rel="prev"; rel="next"', None),
        ('</3>; title="rel=next"', None),
        ("</3>", None),
        ('</1>; anchor; rel="prev" , ,</3> ; rel = "next"', "/3"),
        ('<>; rel="next"', ""),
    ],
)
def test_the_next_link(header: str, target: str | None):
    """Quotes, several links, several relations, odd spacing: the target of the one whose relation is `next`."""
    assert next_link(header) == target
