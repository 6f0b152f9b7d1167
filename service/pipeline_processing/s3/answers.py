"""
Whether an answer of success is the store's own. A captive portal, or a gateway whose store is away, answers any request
with 200 and a page of its own: taken for the store's, it would be a manifest that was never written.
"""

from collections.abc import Mapping
from typing import Any

from pipeline_processing.errors import DestinationUnavailable

_WEB_PAGE = "text/html"


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
