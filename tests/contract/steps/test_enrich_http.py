"""`enrich_http` on a real API: exact values, few requests, and none too many, whatever goes wrong in between."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import pytest
from pydantic import SecretStr

from pipeline_processing.errors import SourceDataInvalid, UpstreamUnavailable
from pipeline_processing.http.client import HttpUpstream
from pipeline_processing.http.options import UpstreamOptions
from pipeline_processing.http.pace import Paces
from pipeline_processing.kinds import column_of_kind, text_of
from pipeline_processing.ports import Upstream
from pipeline_processing.rows.columns import Kind
from pipeline_processing.steps.enrich_http import EnrichHttp, EnrichHttpOptions
from pipeline_processing.steps.step import Batch
from tests.unit.stepped_clock import SteppedClock
from tests.unit.steps.step_context import context
from tests.upstream_api import Asked, Raw, Reply, UpstreamApi, cut_off, first, share_of

BATCH_ROWS = 100


@dataclass
class Upstreams:
    """Services whose upstreams are real ones. Between two tries time passes at once."""

    clock: SteppedClock = field(default_factory=SteppedClock)

    def upstream(self, options: UpstreamOptions) -> AbstractAsyncContextManager[Upstream]:
        return HttpUpstream(
            options=options,
            secret=lambda name: SecretStr(f"the {name}"),
            paces=Paces(clock=self.clock),
            clock=self.clock,
            jitter=lambda: 0.0,
        )


@pytest.fixture
async def api() -> AsyncIterator[UpstreamApi]:
    async with UpstreamApi() as running:
        yield running


@asynccontextmanager
async def step(api: UpstreamApi, kind: Kind = Kind.INTEGER, carry: str = "json", **changes: Any) -> AsyncIterator[Any]:
    """The step, open, on rows with a column `id`."""
    written = {"url": api.url("/labels?ids={values}"), "on": "id", "key": "id", "add": {"label": "label"}}
    options = EnrichHttpOptions.model_validate(written | changes)
    columns = [column_of_kind("id", kind, carry)]
    built = EnrichHttp(options, context(columns, carry=carry, services=Upstreams()))  # type: ignore[arg-type]  # it only asks
    async with built as opened:
        yield opened


async def through(opened: Any, ids: list[Any]) -> list[Any]:
    """The rows' labels, batch by batch."""
    labels = []
    for start in range(0, len(ids), BATCH_ROWS):
        rows = [{"id": each} for each in ids[start : start + BATCH_ROWS]]
        labels += [row["label"] for row in (await opened(Batch.read(rows, first=start + 1))).rows]
    return labels


def keys_of(asked: Asked) -> list[str]:
    """As a server that splits before it decodes reads them."""
    return [unquote(each) for each in asked.raw.partition("ids=")[2].split(",")]


@pytest.mark.parametrize("carry", ["json", "text"])
async def test_exact_values_whatever_goes_wrong(api: UpstreamApi, carry: str):
    """One request in twenty fails and some break off: all labels are right, and each key was answered once."""
    answered: Counter[str] = Counter()

    async def prices(asked: Asked) -> Any:
        await asyncio.sleep(0)
        ids = [each for each in keys_of(asked) if int(each) % 7]
        answered.update(keys_of(asked))
        return [{"id": int(each), "label": f"{each}.{int(each):030}".encode()} for each in ids]

    api.on("/labels", prices)
    api.faults.append(share_of(0.05, Reply(status=503), seed=7))
    api.faults.append(first(2, cut_off(b""), Raw(b"nonsense\r\n\r\n")))
    ids = [(number * 37) % 700 for number in range(2000)]
    add = {"label": {"field": "label", "kind": "number"}}
    async with step(api, carry=carry, batch=10, add=add) as opened:
        labels = await through(opened, ids if carry == "json" else [str(each) for each in ids])

    expected = [Decimal(f"{each}.{each:030}") if each % 7 else None for each in ids]
    assert [None if label is None else Decimal(text_of(label)) for label in labels] == expected
    assert set(answered) == set(map(str, ids))
    assert set(answered.values()) == {1}
    assert len(api.asked) > len(answered) / 10


async def test_requests_at_once(api: UpstreamApi):
    """As many as allowed, where answers are slow, and never more: also while some are asked again."""
    together = asyncio.Barrier(4)
    now = most = 0

    async def slow(asked: Asked) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await together.wait()
        now -= 1
        return [{"id": int(each), "label": each} for each in keys_of(asked)]

    api.on("/labels", slow)
    api.faults.append(share_of(0.2, Reply(status=503), seed=7))
    async with asyncio.timeout(30), step(api, batch=5, concurrency=4) as opened:
        labels = await through(opened, list(range(BATCH_ROWS)))

    assert labels == [str(number) for number in range(BATCH_ROWS)]
    assert most == 4


async def test_an_api_that_stays_down(api: UpstreamApi):
    """It is worth another attempt of the run, once the retries are used up; no request is left under way."""
    api.on("/labels", Reply(status=503))
    async with step(api, max_retries=2, batch=10) as opened:
        with pytest.raises(UpstreamUnavailable):
            await through(opened, list(range(50)))

    assert len(api.asked) <= 3 * 5


async def test_an_answer_without_end(api: UpstreamApi):
    """It is given up at 4 MiB, without having been read whole."""
    never = asyncio.Event()
    api.on("/labels", Reply(b"[" + b" " * (40 * 1024 * 1024), halfway=never))
    async with asyncio.timeout(30), step(api) as opened:
        with pytest.raises(SourceDataInvalid, match="a single key has more than the 4 MiB"):
            await through(opened, [1])
    never.set()


HOSTILE = [
    "'\"", "$1", "\\", "é🦉", "../../admin", "..", ".", "?x=1", "&ids=2", "#top", "a\nb", "a\r\nHost: evil", "a/b",
    "a,b", "%2e%2e", "@evil.example", "//evil.example", "{values}", " ", "+", "a;b", "a=b", "http://evil.example/", "%",
]  # fmt: skip


@pytest.mark.parametrize("batch", [1, 100])
async def test_keys_in_a_query_are_values_and_nothing_else(api: UpstreamApi, batch: int):
    """A server reads each as it is, in the one parameter, at the configured path and host."""
    api.on("/labels", lambda asked: [{"id": each, "label": each[::-1]} for each in keys_of(asked)])
    async with step(api, Kind.TEXT, batch=batch) as opened:
        labels = await through(opened, HOSTILE)

    assert labels == [each[::-1] for each in HOSTILE]
    for asked in api.asked:
        assert (asked.path, list(asked.query), asked.host) == ("/labels", ["ids"], f"127.0.0.1:{api.port}")
        assert asked.query["ids"] == ",".join(keys_of(asked))


async def test_keys_in_a_path_are_one_segment_and_nothing_else(api: UpstreamApi):
    """None adds one, or leads elsewhere; what would has no record, and isn't asked for."""
    for key in HOSTILE:
        api.on(f"/labels/{key}/all", [{"id": key, "label": key[::-1]}])
    async with step(api, Kind.TEXT, batch=1, url=api.url("/labels/{values}/all?x=1")) as opened:
        labels = await through(opened, HOSTILE)

    assert labels == [None if each in ("..", ".") else each[::-1] for each in HOSTILE]
    for asked in api.asked:
        assert (asked.query, asked.raw.count("/"), asked.host) == ({"x": "1"}, 3, f"127.0.0.1:{api.port}")


async def test_no_error_shows_a_key(api: UpstreamApi):
    """Keys are personal data, and errors are stored and sent: they show the URL as the job config has it."""
    async with step(api, Kind.TEXT, url=api.url("/people/{values}/all?x=1")) as opened:
        with pytest.raises(SourceDataInvalid, match="404") as raised:
            await through(opened, ["jane@doe.example", "é"])

    assert api.url("/people/{values}/all") in str(raised.value)
    assert "jane" not in str(raised.value)
    assert "%" not in str(raised.value)


async def test_the_access_is_sent(api: UpstreamApi):
    """Headers and the secret go with every request."""
    api.on("/labels", [])
    async with step(api, headers={"X-Client": "exporter"}, auth={"bearer": "token"}) as opened:
        await through(opened, [1])

    (asked,) = api.asked
    assert (asked.headers["X-Client"], asked.headers["Authorization"]) == ("exporter", "Bearer the token")


async def test_an_answer_of_many_lines(api: UpstreamApi):
    """However an API indents its JSON, a document in a row is one line of NDJSON."""
    api.on("/labels", json.dumps([{"id": 1, "label": {"a": [1, {"b": "é\n"}]}}], indent=2).encode())
    async with step(api, add={"label": {"field": "label", "kind": "json"}}) as opened:
        (label,) = await through(opened, [1])

    assert json.loads(text_of(label)) == {"a": [1, {"b": "é\n"}]}
    assert "\n" not in text_of(label)
