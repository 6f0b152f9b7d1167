"""The page's files, its deep links, and the probes."""

from __future__ import annotations

import pytest

from tests.unit.board.asking import ask
from tests.unit.board.conftest import Parts


async def test_files_are_asked_for_once(parts: Parts) -> None:
    """A browser keeps them, and asks with their ETag whether they are current."""
    app = parts.app()
    for path in ("/", "/static/app.js"):
        answer = await ask(app, path)
        assert (answer.status, answer.headers["cache-control"]) == (200, "no-cache")
        again = await ask(app, path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("path", ["/static/../application.py", "/static/%2e%2e/application.py", "/static/", "/nothing"])
async def test_nothing_else_is_served(parts: Parts, path: str) -> None:
    answer = await ask(parts.app(), path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/runs/run-1", "/#/runs/run-1"),
        ("/runs/a b#<script>", "/#/runs/a%20b"),
        ("/agencies/7", "/#/runs?agency_id=7"),
        ("/agencies/acme/eu", "/#/runs?agency_id=acme%2Feu"),
    ],
)
async def test_links_lead_into_the_page(parts: Parts, path: str, place: str) -> None:
    answer = await ask(parts.app(), path)
    assert (answer.status, answer.headers["location"]) == (303, place)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/", "/api/v1/runs", "/api/v1/runs/r", "/api/v1/live"])
async def test_it_only_reads(parts: Parts, method: str, path: str) -> None:
    assert (await ask(parts.app(), path, method=method)).status == 405


async def test_the_probes(parts: Parts) -> None:
    app = parts.app()
    assert (await ask(app, "/livez")).json == {"status": "ok"}
    ready = await ask(app, "/readyz")
    assert (ready.status, ready.json) == (
        503,
        {"status": "unavailable", "problems": ["starting"], "notes": ["Kafka: away"]},
    )


async def test_a_bug_is_told_without_details(parts: Parts) -> None:
    async def broken(*_: object, **__: object) -> object:
        raise RuntimeError("tops3cret")

    parts.history.failures = broken  # type: ignore[assignment]
    with pytest.raises(RuntimeError):  # the server logs it
        await ask(parts.app(), "/api/v1/failures")
