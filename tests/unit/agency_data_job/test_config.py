"""The job config: what is valid, and what a user is told about the rest."""

# ruff: noqa: E501 - tables of samples

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pipeline_processing.agency_data_job.config import AgencyJobConfig, InvalidJobConfig, load_job_config
from pipeline_processing.errors import UnknownDataset
from pipeline_processing.model import Compression, FormatName, JobRequest
from pipeline_processing.steps.config import AddConfig, FilterConfig, PythonConfig, RenameConfig, SelectConfig

EXAMPLE = """
job: agency_data_job
datasets:
  - name: records
    source:
      postgres:
        query: SELECT * FROM agency_records WHERE agency_id = $1 ORDER BY id
        args: [agency_id]
        statement_timeout: 1h
    steps:
      - select: [id, name, status]
      - rename: {name: display_name}
      - add: {exported_by: "{run_id}", one: 1, half: 0.5, yes_: true, nothing: null}
      - filter: "status != 'deleted'"
      - python: tests.unit.steps.hooks:watch
    format: csv
    compression: zstd
    expect: {min_rows: 1}
  - name: statuses
    source: {postgres: {query: SELECT 1 AS a}}
destinations:
  - s3: {bucket: exports, prefix: agencies}
"""
DATASET = {"name": "records", "source": {"postgres": {"query": "SELECT 1 AS a"}}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "job.yaml"


def test_an_example(path: Path):
    """The contract's own example, with what is left to defaults."""
    path.write_text(EXAMPLE)

    records, statuses = load_job_config(path).datasets

    assert records.source.postgres.args == ("agency_id",)
    assert records.source.postgres.statement_timeout == timedelta(hours=1)
    assert records.steps == (
        SelectConfig(select=("id", "name", "status")),
        RenameConfig(rename={"name": "display_name"}),
        AddConfig(add={"exported_by": "{run_id}", "one": 1, "half": 0.5, "yes_": True, "nothing": None}),
        FilterConfig(filter="status != 'deleted'"),
        PythonConfig(python="tests.unit.steps.hooks:watch"),
    )
    assert (records.format, records.compression, records.expect.min_rows) == (FormatName.CSV, Compression.ZSTD, 1)
    assert (statuses.format, statuses.compression, statuses.steps) == (FormatName.NDJSON, Compression.NONE, ())


def test_constants_keep_their_types(path: Path):
    """YAML's true isn't 1, 1 isn't 1.0, and quoted digits are text."""
    path.write_text(EXAMPLE)
    step = load_job_config(path).datasets[0].steps[2]

    assert isinstance(step, AddConfig)
    assert [type(value) for value in step.add.values()] == [str, int, float, bool, type(None)]


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"colour": "red"}, "datasets.0.colour: unknown key"),
    "an unknown format": ({"format": "xml"}, r"datasets\.0\.format: .*'ndjson' or 'csv'"),
    "an unknown compression": ({"compression": "rar"}, "datasets.0.compression"),
    "an unknown step": ({"steps": [{"nonsense": 1}]}, r"datasets\.0\.steps\.0: .*select, rename, add, filter"),
    "a step without a name": ({"steps": ["select"]}, r"datasets\.0\.steps\.0"),
    "a step with two names": ({"steps": [{"select": ["a"], "filter": "a > 1"}]}, r"datasets\.0\.steps\.0.*: unknown key"),
    "an empty step": ({"steps": [{}]}, r"datasets\.0\.steps\.0"),
    "an empty select": ({"steps": [{"select": []}]}, r"datasets\.0\.steps\.0\.select"),
    "a path that isn't one": ({"steps": [{"python": "os.system('x')"}]}, r"datasets\.0\.steps\.0\.python"),
    "an infinite constant": ({"steps": [{"add": {"x": float("inf")}}]}, "finite"),
    "a constant of 100 bits": ({"steps": [{"add": {"x": 2**100}}]}, "64 bits"),
    "a constant that is a list": ({"steps": [{"add": {"x": [1]}}]}, r"datasets\.0\.steps\.0\.add\.x"),
    "an empty query": ({"source": {"postgres": {"query": ""}}}, "datasets.0.source.postgres.query"),
    "no source": ({"source": {}}, "datasets.0.source.postgres"),
    "a bare number for a duration": (
        {"source": {"postgres": {"query": "SELECT 1", "statement_timeout": 5}}}, "statement_timeout: 5 isn't a duration",
    ),
    "a name with a slash": ({"name": "a/b"}, "datasets.0.name"),
    "a name with dots": ({"name": ".."}, "datasets.0.name"),
    "a name that readers skip": ({"name": "_rejected"}, "datasets.0.name"),
    "an empty name": ({"name": ""}, "datasets.0.name"),
    "a negative expectation": ({"expect": {"min_rows": -1}}, "datasets.0.expect.min_rows"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS)
def test_faults(change: dict[str, Any], message: str, path: Path):
    """Each is told by where it is and what is wrong."""
    path.write_text(yaml.safe_dump({"datasets": [{**DATASET, **change}]}))

    with pytest.raises(InvalidJobConfig, match=message) as raised:
        load_job_config(path)

    assert raised.value.exit_code == 65
    assert str(path) in str(raised.value)


def test_all_faults_at_once(path: Path):
    """Nobody mends a config one fault a run."""
    broken = [{**DATASET, "format": "xml"}, {**DATASET, "colour": "red"}]
    path.write_text(yaml.safe_dump({"datasets": broken, "jobb": 1, "destinations": [{"file": {"path": "relative"}}]}))

    with pytest.raises(InvalidJobConfig) as raised:
        load_job_config(path)

    for fault in ("datasets.0.format", "datasets.1.colour", "jobb: unknown key", "absolute"):
        assert fault in str(raised.value)


def test_values_are_not_shown(path: Path):
    """A value at fault may hold a secret."""
    path.write_text(yaml.safe_dump({"datasets": [DATASET], "password": "hunter2"}))

    with pytest.raises(InvalidJobConfig) as raised:
        load_job_config(path)

    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "mapping"),
        (b"- a", "mapping"),
        (b"datasets: []", "datasets"),
        (b"datasets: [", "YAML"),
        (b"a: \xff", "YAML"),
        (b"a: 2026-02-30", "YAML"),
        (b"a: !!python/object/apply:os.system [true]", "YAML"),
    ],
)
def test_files_that_are_no_config(content: bytes, message: str, path: Path):
    """Broken YAML, wrong encoding and code are told as such."""
    path.write_bytes(content)

    with pytest.raises(InvalidJobConfig, match=message):
        load_job_config(path)


def test_files_that_are_not_there(path: Path):
    """The remedy is in the message."""
    with pytest.raises(InvalidJobConfig, match=r"No such file.*--config"):
        load_job_config(path)


def test_two_datasets_of_one_name():
    """They would write to one key."""
    with pytest.raises(ValidationError, match="two datasets are named records"):
        AgencyJobConfig.model_validate({"datasets": [DATASET, DATASET]})


def test_configs_do_not_change():
    """A run's config is a value."""
    config = AgencyJobConfig.model_validate({"datasets": [DATASET]})

    with pytest.raises(ValidationError, match="frozen"):
        config.datasets[0].format = FormatName.CSV


@pytest.fixture
def three() -> AgencyJobConfig:
    return AgencyJobConfig.model_validate({"datasets": [{**DATASET, "name": name} for name in ("a", "b", "c")]})


def test_a_request_narrows_the_config(three: AgencyJobConfig):
    """To its datasets, in the config's order, and to its format; without wishes all stays as it is."""
    narrowed = three.for_request(JobRequest(agency_id=1, datasets=("c", "a"), format=FormatName.CSV))

    assert [(dataset.name, dataset.format) for dataset in narrowed.datasets] == [("a", "csv"), ("c", "csv")]
    assert three.for_request(JobRequest(agency_id=1)) == three
    assert all(dataset.format is FormatName.NDJSON for dataset in three.datasets)


def test_a_request_for_an_unknown_dataset(three: AgencyJobConfig):
    """The message names those that there are."""
    with pytest.raises(UnknownDataset, match=r"'x'.*a, b, c"):
        three.for_request(JobRequest(agency_id=1, datasets=("a", "x")))
