"""
`config check --connect` finds what a run would only find when it runs, and a run isn't needed for it.

What it finds without a server is in `tests/unit/cli/test_config_faults.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.acceptance.running_api import running_api
from tests.acceptance.service import PREFIX, NewService, Service, one_dataset
from tests.acceptance.test_exit_codes import CLOSED
from tests.upstream_api import UpstreamApi

ALL = "SELECT * FROM records WHERE agency_id = $1"
TARGETS = """
CREATE SCHEMA lake;
CREATE TABLE lake.records (id bigint PRIMARY KEY, agency_id bigint, name text, amount numeric);
CREATE TABLE lake.others (agency_id bigint);
CREATE TABLE statuses (code text, label text);
CREATE TABLE tenants (code uuid);
"""


@pytest.fixture(scope="module")
def shared(new_service: NewService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service for all of these, with tables to load into: nothing is ever written, which is checked."""
    with new_service(tmp_path_factory.mktemp("config-check")) as service:
        service.sql(TARGETS)
        service.environment["PIPELINE_SECRETS__WAREHOUSE_DSN"] = service.environment["PIPELINE_SOURCE__DSN"]
        before = service.everything()
        yield service
        assert service.everything() == before
        assert service.sql("SELECT FROM lake.records") == []
        assert service.sql("SELECT FROM pg_tables WHERE schemaname = 'lake'") == [{}, {}]


@pytest.fixture(scope="module")
def api() -> Iterator[UpstreamApi]:
    """An API that is there. It is never asked anything, which is checked."""
    with running_api() as api:
        yield api
        assert api.asked == []


def loaded(job: Mapping[str, Any], service: Service, **options: Any) -> dict[str, Any]:
    """The same job, which also goes to a table."""
    destinations = [
        {"s3": {"bucket": service.bucket, "prefix": PREFIX}},
        {"postgres": {"dsn": "warehouse_dsn", "schema": "lake", **options}},
    ]
    return {**job, "destinations": destinations}


def table_lookup(query: str, **options: Any) -> dict[str, Any]:
    return {
        "enrich_table": {"query": query, "on": "status", "key": "code", "add": {"label": "label"}} | options,
    }


def http_lookup(url: str) -> dict[str, Any]:
    return {"enrich_http": {"url": f"{url}?ids={{values}}", "on": "id", "key": "id", "add": {"label": "label"}}}


def http_dataset(url: str, *steps: Any, name: str = "records") -> dict[str, Any]:
    source = {"http": {"url": f"{url}/{{agency_id}}", "columns": {"id": "integer", "name": "text"}}}
    return {"job": "agency_data_job", "datasets": [{"name": name, "source": source, "steps": list(steps)}]}


def checked(
    service: Service, job: Mapping[str, Any], env: Mapping[str, str] | None = None
) -> tuple[int, str, list[str]]:
    """Exit code, stdout, and the errors."""
    done = service.cli("config", "check", "--connect", "--config", service.job_config(job), env=env)
    assert "Traceback" not in done.stderr
    errors = re.findall(r"^Error: .*(?:\n(?!Error: ).*)*", done.stderr, re.MULTILINE)
    return done.returncode, done.stdout, [str(error) for error in errors]


def test_all_is_well(shared: Service, api: UpstreamApi) -> None:
    """Every server is told of on a line, and every destination with its guarantee."""
    steps = [
        {"select": ["id", "name", "status", "amount"]},
        table_lookup("SELECT code, label FROM statuses WHERE code = ANY($1)"),
        {"drop": ["status", "label"]},
    ]
    job = loaded(one_dataset(ALL, steps=steps), shared, mode="merge", key=["id"])
    job["datasets"] += http_dataset(api.url("/tickets"), http_lookup(api.url("/labels")), name="others")["datasets"]
    job["datasets"][1]["steps"].append({"select": ["agency_id"]})
    job["datasets"][1]["steps"].insert(0, {"add": {"agency_id": 1}})
    job["destinations"][1]["postgres"] |= {"mode": "append", "key": []}

    webhook = {
        "PIPELINE_WEBHOOKS__BILLING__URL": api.url("/hooks").replace("http://", "http://user:tops3cret@"),
        "PIPELINE_WEBHOOKS__BILLING__KEY": "0123456789abcdef",
    }
    code, out, errors = checked(shared, job, webhook)

    assert (code, errors) == (0, [])
    lines = [re.split(r"\s{2,}", line, maxsplit=2) for line in out.splitlines()]
    assert [line[0] for line in lines] == [
        *("job config", "destination", "destination", "settings", "source", "source", "api", "history"),
        *("destination", "destination", "webhook"),
    ]
    assert {line[1] for line in lines} == {"ok"}
    assert "s3: exactly once" in lines[1][2]
    assert "postgres: exactly once" in lines[2][2]
    assert lines[4][2].endswith("; rows of Postgres are read by COPY, with its native decoder")
    assert lines[5][2].endswith("every step finds its columns")
    assert f"http://127.0.0.1:{api.port}" in lines[6][2]
    assert lines[10][2] == f"billing: http://127.0.0.1:{api.port}"


# -- one fault each ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """A job config, or settings, that a server has something against."""

    code: int
    says: tuple[str, ...]
    job: Mapping[str, Any]
    env: Mapping[str, str] = field(default_factory=dict)


NOBODY_THERE = f"postgresql://nobody@{CLOSED}/agencies"

FAULTS = {
    "source can't be reached": Fault(
        69, (f"Postgres at {CLOSED}", "Check that it is up"), one_dataset(ALL), {"PIPELINE_SOURCE__DSN": NOBODY_THERE}
    ),
    "API of a source can't be reached": Fault(
        69, (f"http://{CLOSED} can't be reached", "its server is up"), http_dataset(f"http://{CLOSED}/tickets")
    ),
    "webhook can't be reached": Fault(
        69,
        (f"Webhook 'billing': http://{CLOSED} can't be reached",),
        one_dataset(ALL),
        {
            "PIPELINE_WEBHOOKS__BILLING__URL": f"http://{CLOSED}/hooks",
            "PIPELINE_WEBHOOKS__BILLING__KEY": "0123456789abcdef",
        },
    ),
    "API of a step can't be reached": Fault(
        69, (f"http://{CLOSED} can't be reached",), one_dataset(ALL, steps=[http_lookup(f"http://{CLOSED}/labels")])
    ),
    "API's host has no address": Fault(
        69, ("https://nowhere.invalid:443 can't be reached",), http_dataset("https://nowhere.invalid/tickets")
    ),
    "missing table": Fault(
        65, (".yaml:6:7 Dataset 'records': ", '"recordz" does not exist'), one_dataset("SELECT * FROM recordz", args=())
    ),
    "misspelt SQL": Fault(
        65, ("datasets[records].source.postgres.query: ", "did you mean SELECT?"), one_dataset("SELEKT 1", args=())
    ),
    "SQL that only Postgres finds wrong": Fault(
        65, ("Dataset 'records'", "syntax error"), one_dataset("SELECT 1 FORM records", args=())
    ),
    "misspelt column of a query": Fault(
        65, ("Dataset 'records'", '"naem" does not exist'), one_dataset("SELECT naem FROM records WHERE agency_id = $1")
    ),
    "misspelt column behind SELECT *": Fault(
        65,
        (
            ".yaml:12:5 Dataset 'records', step 2: ",
            "'nmae'",
            "id, agency_id, name, status, amount, created_at, attributes",
        ),
        one_dataset(ALL, steps=[{"filter": "id > 0"}, {"mask": {"columns": ["nmae"], "using": "sha256"}}]),
    ),
    "column of another kind of key": Fault(
        65,
        ("Dataset 'records': Column 'code' of table 'tenants' has the type uuid", "Set `agency_key: uuid`, or correct"),
        {
            "job": "agency_data_job",
            "datasets": [{"name": "records", "source": {"postgres": {"table": "tenants", "agency_column": "code"}}}],
        },
    ),
    "comparison of what doesn't compare": Fault(
        65, ("Dataset 'records', step 1: ", "attributes"), one_dataset(ALL, steps=[{"filter": "attributes = 5"}])
    ),
    "check of a column that isn't there": Fault(
        65, ("Dataset 'records'", "'nmae'"), one_dataset(ALL, expect={"not_null": ["nmae"]})
    ),
    "lookup of an unknown table": Fault(
        65,
        ("Dataset 'records', step 1", '"statuzes" does not exist'),
        one_dataset(ALL, steps=[table_lookup("SELECT code, label FROM statuzes WHERE code = ANY($1)")]),
    ),
    "lookup that doesn't give its columns": Fault(
        65,
        ("Dataset 'records', step 1", "reads 'label', but its query gives code"),
        one_dataset(ALL, steps=[table_lookup("SELECT code FROM statuses WHERE code = ANY($1)")]),
    ),
    "lookup by another type": Fault(
        65,
        ("Dataset 'records', step 1", "'id'", "'code'", "Make them one type"),
        one_dataset(ALL, steps=[table_lookup("SELECT code, label FROM statuses WHERE code = ANY($1)", on="id")]),
    ),
    "history can't be reached": Fault(
        69, (f"Postgres at {CLOSED}",), one_dataset(ALL), {"PIPELINE_HISTORY__DSN": NOBODY_THERE}
    ),
    "history isn't migrated": Fault(
        78, ("pipeline-processing migrate",), one_dataset(ALL), {"PIPELINE_HISTORY__SCHEMA": "empty_schema"}
    ),
    "S3 can't be reached": Fault(69, (CLOSED,), one_dataset(ALL), {"PIPELINE_S3__ENDPOINT_URL": f"http://{CLOSED}"}),
    "bucket isn't there": Fault(
        78, ("NoSuchBucket", "Create the bucket"), one_dataset(ALL), {"PIPELINE_DESTINATION": "s3://no-such-bucket/x"}
    ),
}


@pytest.mark.parametrize("case", FAULTS.values(), ids=FAULTS)
def test_one_fault(shared: Service, case: Fault) -> None:
    """It is told with its place, and gives the code that a run would have ended with."""
    code, out, errors = checked(shared, case.job, case.env)

    assert code == case.code, errors
    for words in case.says:
        assert words in errors[0]
    assert "failed" in out


TABLES = {
    "no such table": ({"tables": {"records": "recordz"}}, ("There is no table lake.recordz", "'records'")),
    "column that the table doesn't have": (
        {},
        (
            "Dataset 'records' has the column 'status', 'created_at', 'attributes'",
            "table lake.records",
            "add it to the table",
        ),
    ),
    "key without an index": ({"mode": "merge", "key": ["name"]}, ("lake.records", "no unique index on just name")),
    "agency column that isn't there": ({"agency_column": "agency"}, ("lake.records", "no column 'agency'")),
}


@pytest.mark.parametrize(("options", "says"), TABLES.values(), ids=TABLES)
def test_tables_that_dont_fit(shared: Service, options: Mapping[str, Any], says: tuple[str, ...]) -> None:
    """Of a Postgres destination, before anything is read for it; the bucket beside it is well."""
    code, out, errors = checked(shared, loaded(one_dataset(ALL), shared, **options))

    assert (code, len(errors)) == (65, 1), errors
    for words in says:
        assert words in errors[0]
    assert f"destination  ok  s3://{shared.bucket}" in out


def test_a_key_that_the_steps_leave_out(shared: Service) -> None:
    """Columns are those that leave the last step."""
    job = loaded(one_dataset(ALL, steps=[{"select": ["name"]}]), shared, mode="merge", key=["id"])
    code, _, errors = checked(shared, job)

    assert (code, len(errors)) == (65, 1), errors
    assert "Dataset 'records' has no column 'id', which is needed to merge its rows" in errors[0]


def test_all_faults_at_once(shared: Service) -> None:
    """Whatever is wrong with one dataset or server, the others are asked as well; the gravest gives the code."""
    job = one_dataset("SELECT * FROM recordz", args=())
    for name, steps in {
        "second": [{"drop": ["nmae"]}],
        "third": [table_lookup("SELECT 1 FROM nowhere WHERE 1 = ANY($1)")],
        "fourth": [http_lookup(f"http://{CLOSED}/labels")],
    }.items():
        job["datasets"] += [one_dataset(ALL, steps=steps)["datasets"][0] | {"name": name}]
    env = {"PIPELINE_S3__ENDPOINT_URL": f"http://{CLOSED}"}

    code, _, errors = checked(shared, loaded(job, shared), env)

    assert code == 69
    found = "\n".join(errors)
    for words in (
        '"recordz" does not exist',
        "Dataset 'second', step 1",
        "Dataset 'third', step 1",
        f"http://{CLOSED} can't be reached",
        "There is no table lake.second",
    ):
        assert words in found
    assert len(errors) == 6, errors
