"""Errors as `application/problem+json` (RFC 9457)."""

from collections.abc import Mapping, Sequence

from starlette.responses import Response

from pipeline_processing.board.models import Fault, Problem

MEDIA_TYPE = "application/problem+json"


def problem(
    status: int, title: str, detail: str, *, faults: Sequence[Fault] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error's response."""
    body = Problem(title=title, status=status, detail=detail, faults=list(faults)).model_dump_json()
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)
