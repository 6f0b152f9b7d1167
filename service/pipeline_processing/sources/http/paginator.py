"""Finds the URLs of an API's pages."""

import hashlib
import re
from decimal import Decimal
from typing import Any

from pipeline_processing.errors import SourceDataInvalid
from pipeline_processing.http.urls import joined, origin_of, with_query
from pipeline_processing.ports import Answer
from pipeline_processing.sources.http.options import Cursor, HttpSourceConfig, PageNumber, Pages
from pipeline_processing.sources.http.pages import Absent


class Paginator:
    """Goes through the pages of a dataset. It never leaves the API's origin, and never visits a page twice."""

    def __init__(self, config: HttpSourceConfig, url: str) -> None:
        """`url` is the job config's, with the run's arguments filled in."""
        self._pages = config.pages
        self._number = 0 if config.pages is None or config.pages.page_number is None else config.pages.page_number.first
        self._is_first = True
        self._home = origin_of(url)
        self._max_pages = config.max_pages
        self._seen: set[bytes] = set()
        self.url: str | None = None
        """The page to read; None after the last one."""
        match self._pages:
            case Pages(page_number=PageNumber() as numbers):
                url = self._numbered(url, numbers)
        self._go(url)

    def go_on(self, answer: Answer, *, found: Any, records: int) -> None:
        """
        Go to the next page, after one with `records` records.

        `found` is the value at the path of `pages`. Raises SourceDataInvalid if it is absent on the first page, or if
        the next page has another origin, was already read, or exceeds `max_pages`.
        """
        assert self.url is not None, "a page has just been read"
        if isinstance(found, Absent):
            # Many APIs leave it out on the last page. On the first page, the path may be wrong.
            if self._is_first and self._pages is not None and not self._pages.optional:
                raise _no_next_page(self._pages, found)
            found = None
        self._is_first = False
        url = self._after(self.url, answer, found, records)
        if url is not None and origin_of(url) != self._home:
            raise SourceDataInvalid(
                "its link to the next page leads to another scheme, host or port, where this service's access isn't "
                "sent. If that is right, write that address as `url`."
            )
        self._go(url)

    def _after(self, url: str, answer: Answer, found: Any, records: int) -> str | None:
        match self._pages:
            case None:
                return None
            case Pages(cursor=Cursor() as cursor):
                return _with_cursor(url, cursor, found)
            case Pages(page_number=PageNumber() as numbers):
                # A page with fewer records than requested needn't be the last: the API may have a lower limit.
                return self._numbered(url, numbers) if records else None
            case Pages(next_link=None):
                return _linked(answer, next_link(answer.headers.get("Link", "")))
            case _:
                return _linked(answer, found)

    def _numbered(self, url: str, pages: PageNumber) -> str:
        query = {pages.param: str(self._number)}
        if pages.size_param is not None:
            query[pages.size_param] = str(pages.size)
        self._number += 1
        return with_query(url, query)

    def _go(self, url: str | None) -> None:
        if url is not None:
            page = hashlib.blake2b(url.encode(), digest_size=16).digest()  # saves memory, as URLs may be long
            if page in self._seen:
                raise SourceDataInvalid("its next page was already read, so reading would never end.")
            if len(self._seen) == self._max_pages:
                raise SourceDataInvalid(
                    f"there are more than {self._max_pages:,} pages. Raise `max_pages` if that is right, or ask for "
                    "larger ones."
                )
            self._seen.add(page)
        self.url = url


def _with_cursor(url: str, cursor: Cursor, found: Any) -> str | None:
    match found:
        case None | "":
            return None
        case bool() | Decimal() | list() | dict():
            raise SourceDataInvalid("its cursor isn't text or an integer. Correct `cursor` in the job config.")
    try:
        return with_query(url, {cursor.param: str(found)})
    except UnicodeEncodeError:
        raise SourceDataInvalid("its cursor contains a lone surrogate, which can't be sent back.") from None


def _linked(answer: Answer, link: Any) -> str | None:
    if link is None or link == "":
        return None
    if not isinstance(link, str):
        raise SourceDataInvalid("its link to the next page isn't text. Correct `next_link` in the job config.")
    try:
        return joined(answer.url, link)
    except ValueError as error:
        raise SourceDataInvalid(f"its link to the next page can't be followed: {error}.") from None


def _no_next_page(pages: Pages, absent: Absent) -> SourceDataInvalid:
    name = "cursor" if pages.cursor is not None else "next_link"
    return SourceDataInvalid(
        f"it has nothing at {pages.path!r}, which leads to the next page: {absent}. Correct `{name}` in the job "
        "config. If this API leaves it out where there is only one page, set `optional: true` beside it."
    )


_TARGET = re.compile(r"[\s,]*<([^>]*)>")
_PARAM = re.compile(r"""\s*;\s*([!#$%&'*+.^_`|~\w-]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",;]*)))?""", re.ASCII)


def next_link(header: str) -> str | None:
    """
    Return the target of the first link in a `Link` header (RFC 8288) whose `rel` includes `next`, or None.
    """
    at = 0
    while (target := _TARGET.match(header, at)) is not None:
        at = target.end()
        relations: str | None = None
        while (param := _PARAM.match(header, at)) is not None:
            at = param.end()
            name, quoted, plain = param.groups()
            if name.lower() == "rel" and relations is None:  # only the first counts (3.3)
                relations = quoted if quoted is not None else plain
        if relations is not None and "next" in relations.lower().split():
            return target[1]
    return None
