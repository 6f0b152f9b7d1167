"""A `board` process, what stands in its history, and the page as a browser shows it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, ParamSpec, TypeVar

from playwright.sync_api import Browser, Page

from tests.acceptance.service import Service
from tests.acceptance.serving import Serving
from tests.acceptance.warm import Forked

P = ParamSpec("P")
T = TypeVar("T")

_elsewhere = ThreadPoolExecutor(1)


def elsewhere(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call a function in another thread: playwright's own event loop runs in the tests', where no second one may."""
    return _elsewhere.submit(function, *arguments, **options).result()


def start_board(service: Service, *, env: Mapping[str, str | None] | None = None) -> tuple[Serving, str]:
    """Start a `board` on a free port, and return it with its address."""
    process = service.start("board", env={"PIPELINE_BOARD__PORT": "0", **(env or {})})
    assert isinstance(process, Forked)
    board = Serving(process)
    return board, board.wait_until_said("the board is at this address")["address"]


def new_page(
    browser: Browser, *, width: int = 1280, scheme: Literal["light", "dark"] = "light"
) -> tuple[Page, list[str]]:
    """Open a page, and return it with what it will say on its console, violations of the security policy included."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
    page.set_default_timeout(10_000)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    return page, said


HOSTILE = (
    "<script>window.hacked = 1</script>\"><img src=x onerror='window.hacked = 1'>"
    "\N{RIGHT-TO-LEFT OVERRIDE}olleh\N{HEBREW LETTER ALEF} \N{FAMILY} & ${window.hacked = 1} {{7*7}} "
)
"""Text that is markup, code or a change of direction wherever it is taken for more than text."""
LONG = HOSTILE + "x" * 10_000

_RUNS = """
INSERT INTO pipeline.agencies (agency_id) SELECT generate_series(1, 20) ON CONFLICT DO NOTHING;
INSERT INTO pipeline.runs
    (run_id, job, agency_id, state, attempt, fence, worker, request, requested_by, labels, dry_run, queued_at,
     started_at, finished_at, duration_ms, rows_read, rows_written, rows_filtered, rows_rejected, bytes_written,
     timings, manifest_url, error_kind, error_message, error_retryable, error_exit_code, trace_id,
     request_hash, priority)
SELECT format('seed-%s', to_char(n, 'FM0000')), 'agency_data_job', 10 + n % 5, state, 1, 1000 + n, 'worker-1:7:ab',
       jsonb_build_object('agency_id', 10 + n % 5), 'billing-service', jsonb_build_object('team', 'north'), false,
       at - interval '20 seconds', at - interval '15 seconds', at, 15000,
       n * 1000, n * 990, n * 9, n, n * 180000, '{"source": 300, "steps": 120, "upload": 80}',
       CASE WHEN state = 'succeeded' THEN 's3://exports/run/_manifest.json' END,
       CASE WHEN state = 'failed' THEN 'step_failed' END,
       CASE WHEN state = 'failed' THEN 'row 3 has no postcode' END,
       CASE WHEN state = 'failed' THEN false END, CASE WHEN state = 'failed' THEN 1 END,
       md5(n::text), md5(n::text), 0
FROM (
    SELECT n, now() - n * interval '40 seconds' AS at,
           CASE WHEN n % 9 = 4 THEN 'failed' WHEN n % 31 = 5 THEN 'cancelled' ELSE 'succeeded' END AS state
    FROM generate_series(1, 120) AS n
) AS numbered;
INSERT INTO pipeline.run_datasets
SELECT run_id, 'records', agency_id, 0, rows_read, rows_written, rows_filtered, rows_rejected, NULL FROM pipeline.runs;
INSERT INTO pipeline.run_attempts
    (run_id, attempt, fence, worker, outcome, started_at, finished_at, error_kind, error_message, trace_id)
SELECT run_id, 1, fence, worker, state, started_at, finished_at, error_kind, error_message, trace_id FROM pipeline.runs;
INSERT INTO pipeline.outbox (event_id, run_id, type, key, headers, value, created_at, sent_at)
SELECT run_id || ':' || state, run_id, 'agency.run.' || state, agency_id::text, '{}', '{}', finished_at, finished_at
FROM pipeline.runs;
"""

_HOSTILE_RUNS = """
INSERT INTO pipeline.runs
    (run_id, job, agency_id, state, attempt, fence, worker, lease_expires_at, request, requested_by, labels, dry_run,
     queued_at, started_at, finished_at, duration_ms, manifest_url, error_kind, error_message, error_retryable,
     error_exit_code, topic, partition, "offset", trace_id, request_hash, priority)
VALUES
    ('hostile', 'agency_data_job', 66, 'failed', 1, 1, $1, NULL, $2, $1, $3, true,
     clock_timestamp(), clock_timestamp(), clock_timestamp(), 1, $1, $1, $4, false,
     1, $1, 0, 1, md5('x'), 'x', 0),
    ('hostile-running', 'agency_data_job', 67, 'running', 1, 2, $1, now() + interval '1 hour', $2, $1, $3, true,
     clock_timestamp(), clock_timestamp(), NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, $1, 0, 1, md5('y'), 'y', 0)
"""
_HOSTILE_ATTEMPTS = """
INSERT INTO pipeline.run_attempts (run_id, attempt, fence, worker, outcome, finished_at, error_kind, error_message)
VALUES ('hostile', 1, 1, $1, 'failed', now(), $1, $2), ('hostile-running', 1, 2, $1, 'running', NULL, NULL, NULL)
"""
_HOSTILE_EVENT = """
INSERT INTO pipeline.outbox (event_id, run_id, type, key, headers, value, sent_at)
VALUES ('hostile:x', 'hostile', $1, '66', '{}', '{}', now())
"""

_DELIVERIES = """
INSERT INTO pipeline.webhook_deliveries (event_id, webhook, run_id, state, tries, next_at, last_error, delivered_at)
VALUES ('hostile:x', 'crm', 'hostile', 'failed', 3, NULL, $1, NULL),
       ('seed-0001:succeeded', 'crm', 'seed-0001', 'delivered', 1, NULL, NULL, now())
"""


def seed(service: Service) -> None:
    """Put 120 finished runs of the last hours into the history, `seed-0001` the newest, for agencies 10 to 14."""
    service.sql(_RUNS)


def seed_hostile(service: Service) -> None:
    """
    Put hostile text into every field that takes text: of the failed run `hostile`, of `hostile-running`, which another
    worker holds for an hour, and of a dead letter.
    """
    request: dict[str, Any] = {"agency_id": 66, "params": {"name": HOSTILE}, "labels": {"name": HOSTILE[:200]}}
    artifact = {
        "key": HOSTILE, "dataset": HOSTILE, "format": "ndjson", "compression": "none", "rows": 2, "size": 9,
        "sha256": "0" * 64, "staged": {"kind": "inline", "content": ""}, "destination": HOSTILE,
    }  # fmt: skip
    plan = {"destination": HOSTILE, "artifacts": [artifact], "metadata": {}, "manifest_key": "x", "manifest": HOSTILE}
    service.sql("INSERT INTO pipeline.agencies VALUES (66), (67) ON CONFLICT DO NOTHING")
    service.sql(_HOSTILE_RUNS, HOSTILE, request, {"name": HOSTILE[:200]}, LONG)
    service.sql(_HOSTILE_ATTEMPTS, HOSTILE, LONG)
    service.sql("INSERT INTO pipeline.run_datasets VALUES ('hostile', $1, 66, 0, 4, 2, 1, 1, NULL)", HOSTILE)
    service.sql("INSERT INTO pipeline.plans VALUES ('hostile', 1, $1)", json.dumps(plan))
    service.sql(_HOSTILE_EVENT, HOSTILE)
    service.sql(_DELIVERIES, HOSTILE)
