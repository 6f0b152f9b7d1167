"""What `config check` finds in a job config without any server: each fault with its place, its remedy and its code."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline_processing.cli.main import main

QUERY = "SELECT id, name, status FROM records WHERE agency_id = $1"
LOOKUP = {"on": "id", "key": "id", "add": {"label": "label"}}
MASK = {"mask": {"columns": ["name"], "using": "hmac", "secret": "name_key"}}
S3 = {"s3": {"bucket": "exports"}}


def dataset(*steps: Any, name: str = "records", query: str = QUERY, **options: Any) -> dict[str, Any]:
    source = {"postgres": {"query": query, "args": ["agency_id"]}}
    return {"name": name, "source": source, "steps": list(steps), **options}


@pytest.fixture
def check(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Writes a job config, and runs `config check`: exit code, stdout, stderr."""
    for name in list(os.environ):
        if name.upper().startswith("PIPELINE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIPELINE_SOURCE__DSN", "postgresql://app@db/agencies")
    monkeypatch.setenv("PIPELINE_DESTINATION", "s3://exports/agencies")

    def checked(*datasets: Any, destinations: Any = None, env: dict[str, str] | None = None) -> tuple[int, str, str]:
        path = tmp_path / "job.yaml"
        job = {"datasets": list(datasets)} | ({} if destinations is None else {"destinations": destinations})
        path.write_text(yaml.safe_dump(job, sort_keys=False))
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        code = main(["config", "check", "--config", str(path)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return checked


@dataclass(frozen=True)
class Fault:
    """A job config that no run could use, and what is said of it."""

    says: tuple[str, ...]
    datasets: tuple[Any, ...]
    code: int = 65
    destinations: Any = None
    env: dict[str, str] = field(default_factory=dict)


FAULTS = {
    "unknown step": Fault(("datasets[records].steps[0]: unknown step", "select, drop"), (dataset({"shuffle": True}),)),
    "misspelt column after a select": Fault(
        ("datasets[records].steps[1].", "reads column 'nmae'", "id, name"),
        (dataset({"select": ["id", "name"]}, {"filter": "nmae = 'x'"}),),
    ),
    "column that the SELECT list doesn't have": Fault(
        ("datasets[records].steps[0].", "reads column 'amount'", "id, name, status"),
        (dataset({"cast": {"amount": "integer"}}),),
    ),
    "column that was dropped": Fault(
        ("datasets[records].steps[1].", "reads column 'name'", "id, status"),
        (dataset({"drop": ["name"]}, {"mask": {"columns": ["name"], "using": "sha256"}}),),
    ),
    "column that was dropped behind SELECT *": Fault(
        ("datasets[records].steps[1].", "'name'", "an earlier step left it out or renamed it"),
        (dataset({"drop": ["name"]}, {"select": ["name"]}, query="SELECT * FROM records WHERE agency_id = $1"),),
    ),
    "column that was renamed": Fault(
        ("datasets[records].steps[1].", "reads column 'name'", "id, label, status"),
        (dataset({"rename": {"name": "label"}}, {"derive": {"upper": "upper(name)"}}),),
    ),
    "column that a check reads": Fault(
        ("datasets[records].expect.unique[1]: ", "reads column 'nmae'"), (dataset(expect={"unique": ["id", "nmae"]}),)
    ),
    "bad expression": Fault(
        ("datasets[records].steps[0].", "has '=' where a value is expected", "character 8"),
        (dataset({"filter": "name = = 'x'"}),),
    ),
    "function that there isn't": Fault(
        ("datasets[records].steps[0].", "Step 'derive', column 'x'", "pg_sleep"),
        (dataset({"derive": {"x": "pg_sleep(5)"}}),),
    ),
    "type that there isn't": Fault(
        ("datasets[records].steps[0].", "Step 'cast'", "colour"), (dataset({"cast": {"name": "colour"}}),)
    ),
    "query without the agency": Fault(
        ("datasets[records].source.postgres: The postgres source doesn't use `agency_id`", "`args`", "`shared: true`"),
        (dataset(query="SELECT id, name, status FROM records -- WHERE agency_id = $1"),),
    ),
    "API without the agency": Fault(
        ("datasets[records].source.http: The http source doesn't use `agency_id`", "{agency_id}", "`shared: true`"),
        (dataset() | {"source": {"http": {"url": "https://x.example/{since}", "columns": {"id": "integer"}}}},),
    ),
    "since that nothing uses": Fault(
        ("datasets[records].since: `since: last_success` changes nothing",), (dataset(since="last_success"),)
    ),
    "missing secret of a step": Fault(
        ("'name_key'", "Set PIPELINE_SECRETS__NAME_KEY", "PIPELINE_SECRETS__NAME_KEY_FILE"), (dataset(MASK),), code=78
    ),
    "missing secret of a destination": Fault(
        ("'warehouse_dsn'", "the settings have other", "Set PIPELINE_SECRETS__WAREHOUSE_DSN"),
        (dataset(),),
        code=78,
        destinations=[S3, {"postgres": {"dsn": "warehouse_dsn"}}],
        env={"PIPELINE_SECRETS__OTHER": "t0ps3cret"},
    ),
    "two datasets of one name": Fault(("two datasets are named records", "a unique name"), (dataset(), dataset(MASK))),
    "unknown source": Fault(
        ("datasets[records].source: unknown source", "postgres, http"),
        ({"name": "records", "source": {"ftp": {"url": "ftp://x"}}},),
    ),
    "unknown destination": Fault(
        ("destinations[0]: unknown destination", "s3, file, postgres"),
        (dataset(),),
        destinations=[{"azure": {"container": "x"}}],
    ),
    "nowhere to put the manifest": Fault(
        ("datasets[records].on_row_error: the dataset 'records' has `on_row_error: quarantine`", "add an s3 or file"),
        (dataset(on_row_error="quarantine"),),
        destinations=[{"postgres": {"dsn": "warehouse_dsn"}}],
    ),
    "unknown option of a step": Fault(
        ("datasets[records].steps[0].mask", "saltt: unknown key"),
        (dataset({"mask": {"columns": ["name"], "using": "sha256", "saltt": "x"}}),),
    ),
    "wrong option of a step": Fault(
        ("datasets[records].steps[0].enrich_http", "{values}"),
        (dataset({"enrich_http": {"url": "https://api.example.com/labels", **LOOKUP}}),),
    ),
    "option of another way to mask": Fault(
        ("`salt` is an option of `using: sha256`",),
        (dataset({"mask": {"columns": ["name"], "using": "redact", "salt": "x"}}),),
    ),
    "max_rejected where none is rejected": Fault(
        ("`max_rejected` needs `on_row_error: skip` or `quarantine`",), (dataset(max_rejected=5),)
    ),
    "no module of that name": Fault(
        ("datasets[records].steps[0].", "'python: nowhere:f'", "Install"), (dataset({"python": "nowhere:f"}),)
    ),
    "a column that a function declares and the query lacks": Fault(
        ("datasets[records].steps[0].", "reads column 'nmae'", "id, name, status"),
        (dataset({"python": {"function": "tests.unit.steps.hooks:watch", "reads": ["nmae"]}}),),
    ),
    "a function that declares nothing": Fault(
        ("datasets[records].steps[0].python: needs `reads`",), (dataset({"python": {"function": "a:f"}}),)
    ),
    "a function that takes dicts and declares columns": Fault(
        ("datasets[records].steps[0].python.reads: ", "unknown key"),
        (dataset({"python": {"function": "a:f", "takes": "dicts", "reads": ["id"]}}),),
    ),
    "a function that adds a column of no type": Fault(
        ("datasets[records].steps[0].python.adds.n: must be text, integer",),
        (dataset({"python": {"function": "a:f", "reads": ["id"], "adds": {"n": "int"}}}),),
    ),
}


@pytest.mark.parametrize("case", FAULTS.values(), ids=FAULTS)
def test_one_fault(check: Callable[..., tuple[int, str, str]], case: Fault) -> None:
    """It is found without a server, said once on stderr, and gives its code; nothing is called right."""
    code, out, err = check(*case.datasets, destinations=case.destinations, env=case.env)

    assert code == case.code
    assert len(re.findall("^Error: ", err, re.MULTILINE)) == 1
    for words in case.says:
        assert words in err
    assert "settings     ok" not in out
    assert "t0ps3cret" not in out + err


def test_all_faults_of_what_is_written(check: Callable[..., tuple[int, str, str]]) -> None:
    """Every part that breaks the schema is told, whatever dataset or destination it is in."""
    code, _, err = check(
        dataset({"shuffle": True}, {"select": []}, compression="rar"),
        dataset(name="other", max_rejected=5),
        destinations=[{"azure": {}}, {"s3": {"bucket": "exports", "colour": "red"}}],
    )

    assert code == 65
    for words in (
        "datasets[records].steps[0]: unknown step",
        "datasets[records].steps[1].select",
        "datasets[records].compression",
        "datasets[other].max_rejected: `max_rejected` needs",
        "destinations[0]: unknown destination",
        "destinations[1].s3.colour: unknown key",
    ):
        assert words in err, err


def test_all_faults_of_what_it_means(check: Callable[..., tuple[int, str, str]]) -> None:
    """The first fault of each dataset's steps, and every secret that isn't set: the settings' code is the gravest."""
    code, out, err = check(
        dataset({"drop": ["name"]}, {"select": ["name"]}),
        dataset({"filter": "id ="}, name="other"),
        dataset(MASK, name="third"),
        destinations=[S3, {"postgres": {"dsn": "warehouse_dsn"}}],
    )

    assert code == 78
    assert "job config   failed" in out
    assert len(err.splitlines()) == err.count("Error: ") == 4
    for words in (
        "datasets[records].steps[1].select[0]",
        "datasets[other].steps[0].filter",
        "NAME_KEY",
        "WAREHOUSE_DSN",
    ):
        assert words in err


def test_every_destinations_guarantee_is_told(check: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """A line for each, in order, with what it promises."""
    code, out, err = check(
        dataset(),
        destinations=[S3, {"file": {"path": str(tmp_path)}}, {"postgres": {"dsn": "warehouse_dsn"}}],
        env={"PIPELINE_SECRETS__WAREHOUSE_DSN": "postgresql://app@db/warehouse"},
    )

    assert (code, err) == (0, "")
    guarantees = [line for line in out.splitlines() if line.startswith("destination")]
    assert [line.split(": ")[0] for line in guarantees] == [
        f"destination  ok  {kind}" for kind in ("s3", "file", "postgres")
    ]
    assert all("exactly once" in line for line in guarantees)
    assert "not undone" in guarantees[2]
