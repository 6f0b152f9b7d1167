"""
What an answer proves, and what it doesn't.

A captive portal, or a gateway whose store is away, answers any request with 200 and a page of its own: taken for the
store's, it would be a manifest that was never written.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline_processing.destinations.s3.errors import translated
from pipeline_processing.errors import BucketMissing, DestinationUnavailable

_WEB_PAGE = "text/html"


class Buckets:
    """Which buckets have been there. One of them that is missing may come back."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def seen(self, bucket: str) -> None:
        """An answer has shown that it is there."""
        self._seen.add(bucket)

    @contextmanager
    def answering(self, bucket: str, *, doing: str, url: str) -> Iterator[None]:
        """
        Errors of a request to the bucket inside the block as `translated` has them, and DestinationUnavailable instead
        of BucketMissing where the bucket was there before. One that doesn't fail shows that it is there.
        """
        try:
            with translated(doing=doing, url=url):
                yield
        except BucketMissing as missing:
            if bucket not in self._seen:
                raise
            raise DestinationUnavailable(f"{missing} The bucket was there before, so it is tried again.") from missing
        self.seen(bucket)


def check_answer(answer: Mapping[str, Any], *, needs: str | None, doing: str, url: str) -> None:
    """
    Raises DestinationUnavailable for a web page, and where the field `needs` is missing, which S3 sends with every
    answer of this kind.
    """
    if _is_web_page(answer):
        cause = "the answer is a web page"
    elif needs is not None and not answer.get(needs):
        cause = f"the answer has no {needs}"
    else:
        return
    raise DestinationUnavailable(
        f"Can't {doing} {url}: {cause}, so it isn't an S3 store's. Does a proxy, a gateway or a captive portal answer "
        "in its place? It is tried again; if it stays so, see whether PIPELINE_S3__ENDPOINT_URL is right, or the "
        "destination's `endpoint_url`."
    )


def _is_web_page(answer: Mapping[str, Any]) -> bool:
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    # Some stores call an empty answer text/html.
    return str(headers.get("content-type", "")).startswith(_WEB_PAGE) and headers.get("content-length") != "0"
