"""The ways in which an API goes on after a page: where to ask for the first, and for the next."""

import hashlib
from decimal import Decimal
from typing import Any, Protocol

from pipeline_processing.errors import SourceDataInvalid
from pipeline_processing.http.urls import joined, origin_of, with_query
from pipeline_processing.ports import Answer
from pipeline_processing.sources.http.link_header import next_link
from pipeline_processing.sources.http.options import Cursor, HttpSourceConfig, PageNumber, Pages
from pipeline_processing.sources.http.pages import Absent


class Paging(Protocol):
    """One way."""

    def first(self, url: str) -> str:
        """Where the first page is, by the URL of the job config."""

    def after(self, url: str, answer: Answer, *, found: Any, records: int) -> str | None:
        """Where the next is after the page of `url`, with so many records and `found` beside them; None: it's over."""


class OnePage:
    """There is only one."""

    def first(self, url: str) -> str:
        return url

    def after(self, url: str, answer: Answer, *, found: Any, records: int) -> str | None:
        return None


class Links:
    """The page, or its header Link, has the URL of the next."""

    def __init__(self, *, in_header: bool) -> None:
        self._in_header = in_header

    def first(self, url: str) -> str:
        return url

    def after(self, url: str, answer: Answer, *, found: Any, records: int) -> str | None:
        link = next_link(answer.headers.get("Link", "")) if self._in_header else found
        if link is None or link == "":
            return None
        if not isinstance(link, str):
            raise SourceDataInvalid("its link to the next page isn't text. Correct `next_link` in the job config.")
        try:
            return joined(answer.url, link)
        except ValueError as error:
            raise SourceDataInvalid(f"its link to the next page can't be followed: {error}.") from None


class Cursors:
    """The page has a cursor, which is sent back as a parameter."""

    def __init__(self, cursor: Cursor) -> None:
        self._param = cursor.param

    def first(self, url: str) -> str:
        return url

    def after(self, url: str, answer: Answer, *, found: Any, records: int) -> str | None:
        match found:
            case None | "":
                return None
            case bool() | Decimal() | list() | dict():
                raise SourceDataInvalid("its cursor isn't text or an integer. Correct `cursor` in the job config.")
        try:
            return with_query(url, {self._param: str(found)})
        except UnicodeEncodeError:
            raise SourceDataInvalid("its cursor holds half a surrogate pair, which can't be sent back.") from None


class Numbers:
    """Pages are counted."""

    def __init__(self, pages: PageNumber) -> None:
        self._pages = pages
        self._next = pages.first

    def first(self, url: str) -> str:
        return self._numbered(url)

    def after(self, url: str, answer: Answer, *, found: Any, records: int) -> str | None:
        # A page with fewer records than asked for ends nothing: an API may have a limit of its own.
        return self._numbered(url) if records else None

    def _numbered(self, url: str) -> str:
        pages = self._pages
        query = {pages.param: str(self._next)}
        if pages.size_param is not None:
            query[pages.size_param] = str(pages.size)
        self._next += 1
        return with_query(url, query)


class Way:
    """The way through all pages of a dataset, watched: it stays at its API, and never comes back to a page."""

    def __init__(self, config: HttpSourceConfig, url: str) -> None:
        """`url` is where the job config leads with the run's arguments."""
        self._paging = _paging(config.pages)
        self._pages = config.pages
        self._is_first = True
        self._home = origin_of(url)
        self._left = config.max_pages
        self._most = config.max_pages
        self._seen: set[bytes] = set()
        self.url: str | None = None
        """Where the page is that is to be read; None when there is none left."""
        self._go(self._paging.first(url))

    def go_on(self, answer: Answer, *, found: Any, records: int) -> None:
        """
        To the next page, by what the one just read has said.

        `found` is what `pages` leads to in it. Raises SourceDataInvalid where that is absent from the first page, and
        for a page elsewhere, one that was read already, and one too many.
        """
        assert self.url is not None, "a page has just been read"
        if isinstance(found, Absent):
            # Many APIs leave it out on the last page. In the first, it is as likely a wrong path.
            if self._is_first and self._pages is not None and not self._pages.optional:
                raise _nothing_there(self._pages, found)
            found = None
        self._is_first = False
        url = self._paging.after(self.url, answer, found=found, records=records)
        if url is not None and origin_of(url) != self._home:
            raise SourceDataInvalid(
                "its link to the next page leads to another scheme, host or port, where this service's access isn't "
                "sent. If that is right, write that address as `url`."
            )
        self._go(url)

    def _go(self, url: str | None) -> None:
        if url is not None:
            page = hashlib.blake2b(url.encode(), digest_size=16).digest()  # in place of long URLs
            if page in self._seen:
                raise SourceDataInvalid("its next page is one that was read already, so it would go on for ever.")
            self._seen.add(page)
            if not self._left:
                raise SourceDataInvalid(
                    f"there are more than {self._most:,} pages. Raise `max_pages` if that is right, or ask for "
                    "larger ones."
                )
            self._left -= 1
        self.url = url


def _nothing_there(pages: Pages, absent: Absent) -> SourceDataInvalid:
    name = "cursor" if pages.cursor is not None else "next_link"
    return SourceDataInvalid(
        f"it has nothing at {pages.path!r}, which leads to the next page: {absent}. Correct `{name}` in the job "
        "config. If this API leaves it out where there is only one page, set `optional: true` beside it."
    )


def _paging(pages: Pages | None) -> Paging:
    if pages is None:
        return OnePage()
    if pages.cursor is not None:
        return Cursors(pages.cursor)
    if pages.page_number is not None:
        return Numbers(pages.page_number)
    return Links(in_header=pages.next_link is None)
