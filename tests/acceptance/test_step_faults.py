"""
Steps that go wrong in a run: the error names dataset, step and rows, and nothing of the run is ever visible.

What they are in detail is told in `tests/unit/steps`; here the whole command line is seen from outside.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.running_api import running_api
from tests.acceptance.service import LARGE, SMALL, NewService, Service, eventually, finished, message, one_dataset
from tests.acceptance.test_exit_codes import CLOSED, holds_as_failed
from tests.upstream_api import Reply, UpstreamApi

QUERY = "SELECT id, name, status, amount::text AS amount, attributes FROM records WHERE agency_id = $1 ORDER BY id"
"""Twelve rows."""
LONG_QUERY = "SELECT id, title AS name, repeat(md5(title), 100) AS body FROM documents WHERE agency_id = $1 ORDER BY id"
"""2,600 rows of agency LARGE, 8 MiB."""


@pytest.fixture(scope="module")
def shared(new_service: NewService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service for all of these, in which nothing is ever published."""
    with new_service(tmp_path_factory.mktemp("step-faults")) as service:
        yield service
        assert service.listed() == []


@pytest.fixture(scope="module")
def api() -> Iterator[UpstreamApi]:
    """An API that answers each path in another wrong way."""
    with running_api() as api:
        api.on("/refuses", Reply(status=401))
        api.on("/breaks", Reply(status=500))
        api.on("/babbles", Reply(b"<html>Sorry</html>"))
        api.on("/misleads", [{"id": "active", "label": {"no": "text"}}])
        yield api


def failed(
    service: Service,
    code: int,
    kind: str,
    says: Sequence[str],
    *,
    steps: Sequence[Mapping[str, Any]],
    agency_id: int = SMALL,
    query: str = QUERY,
    env: Mapping[str, str] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Run such a job, and hold its failure to all that is told of failures. The completion."""
    config = service.job_config(one_dataset(query, steps=list(steps), **settings))
    run_id = f"fault-{uuid4().hex[:8]}"
    done = service.run(agency_id, "--run-id", run_id, "--config", config, env=env)
    return holds_as_failed(service, done, run_id, code, kind, tuple(says))


# -- functions of the user's ------------------------------------------------------------------------


@dataclass(frozen=True)
class Faulty:
    """A function of `faulty_steps.py`, and how its run ends."""

    kind: str
    says: tuple[str, ...]
    code: int = 1
    after: tuple[Mapping[str, Any], ...] = ()
    """Steps behind it."""
    before: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


FUNCTIONS = {
    "raises": Faulty("step_failed", ("LookupError: no such street", "replay")),
    "raises_async": Faulty("step_failed", ("LookupError: no such street", "replay")),
    "exits": Faulty("step_failed", ("SystemExit", "replay")),
    "returns_none": Faulty("step_failed", ("returned NoneType", "Return a list of dicts")),
    "returns_generator": Faulty("step_failed", ("returned generator", "Return a list of dicts")),
    "returns_numbers": Faulty("step_failed", ("a list with a int in it", "dict")),
    "adds_rows": Faulty("step_added_rows", ("got 12 rows and returned 24", "never add any")),
    "adds_one_row": Faulty("step_added_rows", ("got 12 rows and returned 13", "never add any")),
}


@pytest.mark.parametrize("on_row_error", ["fail", "quarantine"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(shared: Service, name: str, on_row_error: str) -> None:
    """One that raises or returns what isn't its rows fails the run, with dataset, step and rows."""
    case, step = FUNCTIONS[name], f"python: faulty_steps:{name}"
    raises = "raises" in name or name == "exits"
    if raises and on_row_error == "quarantine":
        # Its rows are rejected then, each for itself; so too many are.
        case = Faulty("too_many_rejected", (case.says[0], "max_rejected", "row 1)"))
    settings = {"max_rejected": 3} if on_row_error == "quarantine" else {}

    failed(
        shared,
        case.code,
        case.kind,
        ("records", step, *case.says) if raises and settings else ("records", step, "rows 1 to 12", *case.says),
        steps=[{"filter": "id > 0"}, {"python": f"faulty_steps:{name}"}],
        on_row_error=on_row_error,
        **settings,
    )


def test_a_function_that_raises_late(shared: Service) -> None:
    """The rows are those of its batch; what was uploaded before is gone."""
    told = failed(
        shared,
        1,
        "step_failed",
        ("Dataset 'records'", "step 'python: faulty_steps:raises_late'", "to 2,600", "LookupError: no such street"),
        steps=[{"python": "faulty_steps:raises_late"}],
        agency_id=LARGE,
        query=LONG_QUERY,
    )

    assert told["bytes_written"] > 1024**2


@pytest.mark.parametrize("name", ["loses_a_column", "loses_it_once"])
@pytest.mark.parametrize(
    "later",
    [
        {"select": ["id", "name"]},
        {"mask": {"columns": ["name"], "using": "sha256"}},
        {"filter": "name <> 'x'"},
        {"derive": {"upper": "upper(name)"}},
        {"rename": {"name": "title"}},
    ],
    ids=lambda step: next(iter(step)),
)
def test_a_function_that_loses_a_column(shared: Service, name: str, later: Mapping[str, Any]) -> None:
    """A later step that reads it says so, also where only one row hasn't got it."""
    failed(
        shared,
        65,
        "unknown_column",
        ("Dataset 'records'", f"step 2 ({next(iter(later))}", "rows 1 to 12", "reads column 'name'"),
        steps=[{"python": f"faulty_steps:{name}"}, later],
    )


def test_a_function_that_returns_what_cant_be_written(shared: Service) -> None:
    """The format can't write any object: that is an error of the step's, not a bug."""
    failed(
        shared,
        1,
        "step_failed",
        ("records", "name", "object"),
        steps=[{"python": "faulty_steps:returns_what_nothing_can_write"}],
    )


# -- functions that hang ----------------------------------------------------------------------------


HANGING = ("sleeps", "spins", "never_ends")


def test_functions_that_hang(new_service: NewService, tmp_path: Any) -> None:
    """Within a `timeout` they fail the run; the process ends at once, though a thread of it still hangs."""
    # Not warm: how a process ends by itself is what this is about.
    with new_service(tmp_path, warm=False) as service:
        for name in HANGING:
            steps = [{"filter": "id > 0"}, {"python": f"faulty_steps:{name}", "timeout": "1s"}]
            process = service.start_run(
                SMALL, "--run-id", name, "--config", service.job_config(one_dataset(QUERY, steps=steps))
            )
            eventually(lambda name=name: service.state(name) == "running")
            started = time.monotonic()
            done = finished(process)

            assert time.monotonic() - started < 8
            says = (
                "Dataset 'records'",
                f"step 2 (python: faulty_steps:{name})",
                "rows 1 to 12",
                "didn't end within its `timeout` of 1 s",
            )
            holds_as_failed(service, done, name, 1, "step_failed", says)


@pytest.mark.parametrize("name", HANGING)
def test_a_signal_while_a_function_hangs(new_service: NewService, tmp_path: Any, name: str) -> None:
    """Without a `timeout` it hangs on; SIGTERM hands the run back all the same, and the process ends at once."""
    with new_service(tmp_path, warm=False) as service:
        config = service.job_config(one_dataset(QUERY, steps=[{"python": f"faulty_steps:{name}"}]))
        process = service.start_run(SMALL, "--run-id", name, "--config", config)
        eventually(lambda: service.state(name) == "running")
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        done = finished(process)

        assert time.monotonic() - started < 8
        assert (done.returncode, done.stdout) == (143, ""), done.stderr
        assert (service.state(name), service.outcomes(name)) == ("queued", ["handed_back"])
        assert (service.listed(), service.pending_uploads()) == ([], [])


# -- rows that can't be used ------------------------------------------------------------------------

NOT_A_NUMBER = (
    "SELECT id, CASE id WHEN 1005 THEN 'n/a' ELSE '5' END AS amount FROM records WHERE agency_id = $1 ORDER BY id"
)
ROWS = {
    "cast": ({"cast": {"amount": "numeric"}}, "step 'cast', row 5", "column 'amount': the text isn't a number"),
    "cast of many": (
        {"cast": {"amount": "date"}},
        "step 'cast', row 1",
        "column 'amount': the text isn't a date in ISO form (11 more rows of this batch fail as well)",
    ),
    "derive": ({"derive": {"share": "10 / (id - 1007)"}}, "step 'derive', row 7", "division by zero"),
    "validate": (
        {"validate": {"json_schema": {"properties": {"amount": {"maxLength": 2}}}}},
        "step 'validate', row 5",
        "amount: too long (maxLength)",
    ),
    "enrich_table": (
        {
            "enrich_table": {
                "query": "SELECT '5' AS code, 'five' AS label WHERE '5' = ANY($1)",
                "on": "amount",
                "key": "code",
                "add": {"label": "label"},
                "missing": "fail",
            }
        },
        "step 'enrich_table: amount', row 5",
        "its 'amount' is the key of no record",
    ),
}


@pytest.mark.parametrize(("step", "place", "why"), ROWS.values(), ids=ROWS)
def test_rows_that_cant_be_used(shared: Service, step: Mapping[str, Any], place: str, why: str) -> None:
    """The first of them fails the run; its number is that of the source, whatever was filtered before it."""
    told = failed(
        shared,
        1,
        "step_failed",
        (f"Dataset 'records', {place}: ", why, "on_row_error", "replay"),
        steps=[step],
        query=NOT_A_NUMBER,
    )
    assert "n/a" not in told["error"]["message"], "no values"

    filtered = {"filter": "id <> 1002"}
    failed(shared, 1, "step_failed", (f"Dataset 'records', {place}: ", why), steps=[filtered, step], query=NOT_A_NUMBER)


def test_too_many_rows_that_cant_be_used(shared: Service) -> None:
    """Neither the artifact nor the rejected rows are published."""
    failed(
        shared,
        1,
        "too_many_rejected",
        ("Dataset 'records'", "2,600 rows were rejected", "max_rejected", "10% of 2,600", "Nothing was published"),
        steps=[{"cast": {"name": "numeric"}}],
        agency_id=LARGE,
        query=LONG_QUERY,
        on_row_error="quarantine",
        max_rejected="10%",
    )


# -- upstream APIs ----------------------------------------------------------------------------------

UPSTREAM = {
    "down": (69, "upstream_unavailable", (CLOSED, "gives no answer: no connection", "its server is up")),
    "/breaks": (69, "upstream_unavailable", ("/breaks answers 500",)),
    "/refuses": (77, "access_denied", ("/refuses answers 401", "Check the secret 'labels_token'")),
    "/missing": (1, "source_data_invalid", ("/missing answers 404", "Correct the URL")),
    "/babbles": (1, "source_data_invalid", ("JSON",)),
}
TOKEN = {"PIPELINE_SECRETS__LABELS_TOKEN": "t0ken-pw", "PIPELINE_WORKER__MAX_ATTEMPTS": "2"}


def access(api: UpstreamApi, path: str) -> dict[str, Any]:
    """Options of both the source and the step."""
    url = f"http://{CLOSED}/x" if path == "down" else api.url(path)
    return {"url": url, "auth": {"bearer": "labels_token"}, "max_retries": 1}


@pytest.mark.parametrize("path", UPSTREAM)
def test_an_api_that_a_step_asks(shared: Service, api: UpstreamApi, path: str) -> None:
    """One that is down is tried again, as is the run; one that refuses isn't. The secret is told nowhere."""
    code, kind, says = UPSTREAM[path]
    options = access(api, path)
    lookup = {
        "on": "status",
        "key": "id",
        "add": {"label": "label"},
        **options,
        "url": options["url"] + "?ids={values}",
    }
    asked = len(api.asked)

    told = failed(
        shared,
        code,
        kind,
        ("Dataset 'records', step 2 (enrich_http: status), rows 1 to 12: ", *says),
        steps=[{"filter": "id > 0"}, {"enrich_http": lookup}],
        env=TOKEN,
    )

    tries = {69: 4, 77: 1, 1: 1}[code]
    assert len(api.asked) - asked == (0 if path == "down" else tries)
    assert told["attempt"] == (2 if code == 69 else 1)
    assert "t0ken-pw" not in repr(told) + repr(shared.tables())


@pytest.mark.parametrize("path", UPSTREAM)
def test_an_api_that_is_the_source(shared: Service, api: UpstreamApi, path: str) -> None:
    """The same, with dataset and page."""
    code, kind, says = UPSTREAM[path]
    source = {"http": {**access(api, path), "columns": {"id": "text"}}}
    config = shared.job_config({"job": "agency_data_job", "datasets": [{"name": "labels", "source": source}]})
    run_id = f"source-{uuid4().hex[:8]}"

    done = shared.run(SMALL, "--run-id", run_id, "--config", config, env=TOKEN)

    told = holds_as_failed(shared, done, run_id, code, kind, ("Dataset 'labels', page 1", *says))
    assert "t0ken-pw" not in repr(told) + repr(shared.tables())


def test_a_record_that_isnt_what_the_step_says(shared: Service, api: UpstreamApi) -> None:
    """It is a row error of each row that wants it."""
    lookup = {"url": api.url("/misleads?ids={values}"), "on": "status", "key": "id", "add": {"label": "label"}}
    failed(
        shared,
        1,
        "step_failed",
        ("Dataset 'records', step 'enrich_http: status', row 1: ", "'label' is not text", "(9 more rows"),
        steps=[{"enrich_http": lookup}],
    )


def test_faults_before_the_run(shared: Service) -> None:
    """What can be told without a server is refused before the run id is spent."""
    config = shared.job_config(one_dataset(QUERY, steps=[{"drop": ["name"]}, {"select": ["name"]}]))
    done = shared.run(SMALL, "--run-id", "never-1", "--config", config)

    assert (done.returncode, done.stdout) == (65, "")
    assert "Dataset 'records', step 2" in message(done)
    assert shared.state("never-1") is None
