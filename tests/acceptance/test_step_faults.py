"""
Steps that go wrong in a run: the error names dataset, step and rows, and nothing of the run is ever visible.

What they are in detail is told in `tests/unit/steps`; here the whole command line is seen from outside.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.faulty_steps import LATE
from tests.acceptance.running_api import running_api
from tests.acceptance.service import (
    HUGE,
    LARGE,
    OTHER,
    SMALL,
    NewService,
    Process,
    Service,
    finished,
    message,
    one_dataset,
)
from tests.acceptance.test_exit_codes import CLOSED, holds_as_failed
from tests.upstream_api import Reply, UpstreamApi
from tests.watching import eventually

QUERY = "SELECT id, name, status, amount::text AS amount, attributes FROM records WHERE agency_id = $1 ORDER BY id"
"""Twelve rows of agency SMALL, of which the first batch has four."""
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


FUNCTIONS = {
    "raises": Faulty("step_failed", ("LookupError: no such street", "replay")),
    "raises_async": Faulty("step_failed", ("LookupError: no such street", "replay")),
    "raises_in_a_group": Faulty("step_failed", ("ExceptionGroup", "replay")),
    "exits": Faulty("step_failed", ("SystemExit", "replay")),
    "exits_async": Faulty("step_failed", ("SystemExit", "replay")),
    "exits_in_a_task": Faulty("step_failed", ("SystemExit", "replay")),
    "interrupts": Faulty("step_failed", ("KeyboardInterrupt", "replay")),
    "returns_none": Faulty("step_failed", ("returned NoneType", "Return a list of dicts")),
    "returns_generator": Faulty("step_failed", ("returned generator", "Return a list of dicts")),
    "returns_numbers": Faulty("step_failed", ("a list with a int in it", "dict")),
    "adds_rows": Faulty("step_added_rows", ("got 4 rows and returned 8", "never add any")),
    "adds_one_row": Faulty("step_added_rows", ("got 4 rows and returned 5", "never add any")),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(shared: Service, name: str) -> None:
    """One that raises, or returns what isn't its rows, fails the run, with dataset, step and rows."""
    case = FUNCTIONS[name]
    steps = [{"filter": "id > 0"}, {"python": f"faulty_steps:{name}"}]
    told = failed(shared, 1, case.kind, ("Dataset 'records', step ", "rows 1 to 4: ", *case.says), steps=steps)
    assert f"python: faulty_steps:{name}" in told["error"]["message"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("exits_when_opened", ("Dataset 'records', step 1", "SystemExit", "opened")),
        ("interrupts_when_closed", ("KeyboardInterrupt", "closed")),
    ],
)
def test_functions_that_would_end_the_process_when_they_are_opened_or_closed(
    shared: Service, name: str, says: tuple[str, ...]
) -> None:
    """That is the step's failure as well."""
    failed(shared, 1, "step_failed", (f"faulty_steps:{name}", *says), steps=[{"python": f"faulty_steps:{name}"}])


@pytest.mark.parametrize("name", ["raises", "raises_async"])
def test_functions_that_raise_where_rows_may_be_rejected(shared: Service, name: str) -> None:
    """Each row is rejected for itself, and too many fail the run; nothing of the rejected ones is left."""
    failed(
        shared,
        1,
        "too_many_rejected",
        (
            "Dataset 'records'",
            "max_rejected",
            f"LookupError: no such street (step 'python: faulty_steps:{name}', row 1)",
        ),
        steps=[{"filter": "id > 0"}, {"python": f"faulty_steps:{name}"}],
        on_row_error="quarantine",
        max_rejected=3,
    )


@pytest.mark.parametrize("name", ["returns_none", "adds_rows"])
def test_functions_that_break_their_contract_where_rows_may_be_rejected(shared: Service, name: str) -> None:
    """That is no row's fault: it fails the run."""
    steps = [{"python": f"faulty_steps:{name}"}]
    failed(shared, 1, FUNCTIONS[name].kind, FUNCTIONS[name].says, steps=steps, on_row_error="quarantine")


def test_a_function_that_raises_late(shared: Service) -> None:
    """The rows are those of its batch; what was uploaded before is gone."""
    told = failed(
        shared,
        1,
        "step_failed",
        ("Dataset 'records', step 'python: faulty_steps:raises_late', rows ", "LookupError: no such street"),
        steps=[{"python": "faulty_steps:raises_late"}],
        agency_id=LARGE,
        query=LONG_QUERY,
    )

    (batch,) = re.findall(r"rows ([\d,]+) to ([\d,]+): ", told["error"]["message"])
    first, last = (int(number.replace(",", "")) for number in batch)
    assert first <= LATE <= last < first + 1000


@pytest.mark.parametrize(
    ("name", "later"),
    [
        ("loses_a_column", {"select": ["id", "name"]}),
        ("loses_a_column", {"mask": {"columns": ["name"], "using": "sha256"}}),
        ("loses_a_column", {"derive": {"upper": "upper(name)"}}),
        ("loses_it_once", {"filter": "name <> 'x'"}),
        ("loses_it_once", {"rename": {"name": "title"}}),
    ],
    ids=lambda each: each if isinstance(each, str) else next(iter(each)),
)
def test_a_function_that_loses_a_column(shared: Service, name: str, later: Mapping[str, Any]) -> None:
    """A later step that reads it says so, also where only one row hasn't got it."""
    failed(
        shared,
        65,
        "unknown_column",
        ("Dataset 'records'", f"step 2 ({next(iter(later))}", "rows 1 to 4", "reads column 'name'"),
        steps=[{"python": f"faulty_steps:{name}"}, later],
    )


# -- functions that hang ----------------------------------------------------------------------------


HANGING = ("sleeps", "spins", "never_ends")
STARTED, PROMPTLY = 60.0, 20.0
"""Seconds that three processes may take to start, and each to end, on a busy machine."""


def hanging(service: Service, **step: Any) -> list[tuple[str, Process]]:
    """Runs of such functions, all at once, of an agency each."""
    started = []
    for agency_id, name in zip((SMALL, OTHER, HUGE), HANGING, strict=True):
        steps = [{"filter": "id > 0"}, {"python": f"faulty_steps:{name}", **step}]
        config = service.job_config(one_dataset(QUERY, steps=steps))
        started.append((name, service.start_run(agency_id, "--run-id", name, "--config", config)))
    return started


def has_failed(service: Service, run_id: str) -> bool:
    return service.state(run_id) == "failed"


def test_functions_that_hang(new_service: NewService, tmp_path: Path) -> None:
    """Within a `timeout` they fail the run; the process ends at once, though a thread of it still hangs."""
    # Not warm: how a process ends by itself is what this is about.
    with new_service(tmp_path, warm=False) as service:
        for name, process in hanging(service, timeout="1s"):
            eventually(partial(has_failed, service, name), STARTED)
            done = finished(process, PROMPTLY)

            says = (
                f"Dataset 'records', step 2 (python: faulty_steps:{name}), rows 1 to 4: didn't end within its "
                "`timeout` of 1 s",
            )
            holds_as_failed(service, done, name, 1, "step_failed", says)


def test_a_signal_while_a_function_hangs(new_service: NewService, tmp_path: Path) -> None:
    """Without a `timeout` it hangs on; SIGTERM hands the run back all the same, and the process ends at once."""
    with new_service(tmp_path, warm=False) as service:
        started = hanging(service)
        for name, process in started:
            eventually((service.folder / name).exists, STARTED)
            process.send_signal(signal.SIGTERM)
        for name, process in started:
            done = finished(process, PROMPTLY)

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
        "column 'amount': the text isn't a date in ISO form (",
    ),
    "derive": ({"derive": {"share": "10 / (id - 1003)"}}, "step 'derive', row 3", "division by zero"),
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
        steps=[{"filter": "id <> 1002"}, step],
        query=NOT_A_NUMBER,
    )
    assert "n/a" not in told["error"]["message"], "no values"


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
        ("Dataset 'records', step 2 (enrich_http: status), rows 1 to 4: ", *says),
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
    dataset = {"name": "labels", "source": source, "shared": True}
    config = shared.job_config({"job": "agency_data_job", "datasets": [dataset]})
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
        ("Dataset 'records', step 'enrich_http: status', row 1: ", "'label' is not text", "(3 more rows"),
        steps=[{"enrich_http": lookup}],
    )


def test_faults_before_the_run(shared: Service) -> None:
    """What can be told without a server is refused before the run id is spent."""
    config = shared.job_config(one_dataset(QUERY, steps=[{"drop": ["name"]}, {"select": ["name"]}]))
    done = shared.run(SMALL, "--run-id", "never-1", "--config", config)

    assert (done.returncode, done.stdout) == (65, "")
    assert "datasets[records].steps[1].select[0]: " in message(done)
    assert shared.state("never-1") is None
