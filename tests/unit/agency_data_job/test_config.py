"""The job config: what is valid, and what a user is told about the rest."""

# ruff: noqa: E501 - tables of samples

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from pipeline_processing.agency_data_job.checking import faults_without_servers
from pipeline_processing.agency_data_job.config import (
    AgencyJobConfig,
    DatasetConfig,
    Expect,
    InvalidJobConfig,
)
from pipeline_processing.agency_data_job.loading import load_job_config
from pipeline_processing.agency_data_job.rejections import OnRowError
from pipeline_processing.errors import UnknownDataset
from pipeline_processing.model import Compression, CsvOptions, FormatName, JobRequest
from pipeline_processing.options.limits import Percent
from pipeline_processing.plugins import DESTINATIONS, SOURCES, STEPS, Plugin
from tests.unit.plugged import installed

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

    assert records.source.options.args == ("agency_id",)
    assert records.source.options.statement_timeout == timedelta(hours=1)
    assert [(step.kind, step.options) for step in records.steps] == [
        ("select", ("id", "name", "status")),
        ("rename", {"name": "display_name"}),
        ("add", {"exported_by": "{run_id}", "one": 1, "half": 0.5, "yes_": True, "nothing": None}),
        ("filter", "status != 'deleted'"),
        ("python", "tests.unit.steps.hooks:watch"),
    ]
    assert (records.format, records.compression, records.expect.min_rows) == (FormatName.CSV, Compression.ZSTD, 1)
    assert (statuses.format, statuses.compression, statuses.steps) == (FormatName.NDJSON, Compression.NONE, ())


def test_constants_keep_their_types(path: Path):
    """YAML's true isn't 1, 1 isn't 1.0, and quoted digits are text."""
    path.write_text(EXAMPLE)
    step = load_job_config(path).datasets[0].steps[2]

    assert [type(value) for value in step.options.values()] == [str, int, float, bool, type(None)]


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"colour": "red"}, r"datasets\[records\].colour: unknown key"),
    "an unknown format": ({"format": "xml"}, r"datasets\[records\]\.format: .*ndjson, csv or parquet"),
    "an unknown compression": ({"compression": "rar"}, r"datasets\[records\].compression"),
    "an unknown step": ({"steps": [{"nonsense": 1}]}, r"datasets\[records\]\.steps\[0\]: unknown step.*select, drop, rename, add"),
    "a step without a name": ({"steps": ["select"]}, r"datasets\[records\]\.steps\[0\]"),
    "a step with two names": ({"steps": [{"select": ["a"], "filter": "a > 1"}]}, r"steps\[0\]: needs one key beside `timeout`, and has 'filter', 'select'"),
    "an empty step": ({"steps": [{}]}, r"datasets\[records\]\.steps\[0\]"),
    "an empty select": ({"steps": [{"select": []}]}, r"datasets\[records\]\.steps\[0\]\.select"),
    "a path that isn't one": ({"steps": [{"python": "os.system('x')"}]}, r"datasets\[records\]\.steps\[0\]\.python"),
    "an infinite constant": ({"steps": [{"add": {"x": float("inf")}}]}, "finite"),
    "a constant of 100 bits": ({"steps": [{"add": {"x": 2**100}}]}, "64 bits"),
    "a constant that is a list": ({"steps": [{"add": {"x": [1]}}]}, r"datasets\[records\]\.steps\[0\]\.add\.x"),
    "an empty query": ({"source": {"postgres": {"query": ""}}}, r"datasets\[records\].source.postgres.query"),
    "no source": ({"source": {}}, r"datasets\[records\].source: unknown source.*keys postgres, http"),
    "an unknown source": ({"source": {"mysql": {}}}, r"datasets\[records\].source: unknown source.*keys postgres, http"),
    "two sources": ({"source": {"postgres": {"query": "SELECT 1"}, "http": {}}}, r"datasets\[records\]\.source: needs one key, and has 'http', 'postgres'"),
    "a source that isn't installed": ({"source": {"acme.crm": {}}}, r"datasets\[records\].source.*no installed package provides 'acme.crm'"),
    "a step that isn't installed": ({"steps": [{"acme.geocode": {}}]}, r"datasets\[records\]\.steps\[0\].*no installed package provides 'acme.geocode'"),
    "a timeout and no step": ({"steps": [{"timeout": "1s"}]}, r"datasets\[records\]\.steps\[0\]: unknown step"),
    "a timeout without a unit": ({"steps": [{"select": ["a"], "timeout": 5}]}, r"datasets\[records\]\.steps\[0\].*timeout: 5 isn't a duration"),
    "a share without a sign": ({"on_row_error": "skip", "max_rejected": "5"}, r"datasets\[records\]\.max_rejected.*percent sign"),
    "a negative count": ({"on_row_error": "skip", "max_rejected": -1}, r"datasets\[records\]\.max_rejected.*must be at least 0"),
    "a limit where nothing is rejected": ({"max_rejected": 5}, r"datasets\[records\].max_rejected: `max_rejected` needs `on_row_error: skip`"),
    "an overlap with nothing": ({"overlap": "5m"}, r"datasets\[records\].overlap: `overlap` needs `since: last_success`"),
    "another since": ({"since": "yesterday"}, r"datasets\[records\]\.since: .*last_success"),
    "an unknown way with row errors": ({"on_row_error": "ignore"}, r"datasets\[records\]\.on_row_error: .*fail, skip or quarantine"),
    "artifacts of no rows": ({"max_artifact_rows": 0}, r"datasets\[records\]\.max_artifact_rows"),
    "artifacts of no bytes": ({"max_artifact_mib": 0}, r"datasets\[records\]\.max_artifact_mib"),
    "a delimiter of two characters": ({"csv": {"delimiter": "||"}}, r"datasets\[records\]\.csv\.delimiter: must be one"),
    "a delimiter that values are made of": ({"csv": {"delimiter": "."}}, r"datasets\[records\]\.csv\.delimiter: can't be"),
    "a BOM in another encoding": ({"csv": {"bom": True, "encoding": "latin-1"}}, r"datasets\[records\]\.csv: `bom` needs"),
    "a null with the delimiter": ({"csv": {"null": "a,b"}}, r"datasets\[records\]\.csv: `null` can't hold the delimiter"),
    "a bare change": ({"expect": {"max_change": 20}}, r"datasets\[records\]\.expect\.max_change: .*percent sign"),
    "an empty check": ({"expect": {"unique": []}}, r"datasets\[records\]\.expect\.unique"),
    "a bare number for a duration": (
        {"source": {"postgres": {"query": "SELECT 1", "statement_timeout": 5}}}, "statement_timeout: 5 isn't a duration",
    ),
    "a name with a slash": ({"name": "a/b"}, r"datasets\[.*\]\.name: must be a dataset\'s name"),
    "a name with dots": ({"name": ".."}, r"datasets\[.*\]\.name: must be a dataset\'s name"),
    "a name that readers skip": ({"name": "_rejected"}, r"datasets\[.*\]\.name: must be a dataset\'s name"),
    "an empty name": ({"name": ""}, r"datasets\[.*\]\.name: must be a dataset\'s name"),
    "a negative expectation": ({"expect": {"min_rows": -1}}, r"datasets\[records\].expect.min_rows"),
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

    for fault in (
        "datasets[records].format: must be ndjson, csv or parquet",
        "datasets[records].colour: unknown key",
        "jobb: unknown key",
        "absolute",
    ):
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
        (b"a: \xff", "UTF-8"),
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


# -- what else a dataset may have ----------------------------------------------------------------


def dataset(**options: Any) -> DatasetConfig:
    return AgencyJobConfig.model_validate({"datasets": [{**DATASET, **options}]}).datasets[0]


def test_defaults():
    """Nothing is rejected, rotated or compared unless the config says so."""
    plain = dataset()

    assert (plain.on_row_error, plain.max_rejected) == (OnRowError.FAIL, None)
    assert (plain.max_artifact_rows, plain.max_artifact_mib, plain.since, plain.overlap) == (None, None, None, None)
    assert (plain.csv, plain.expect, plain.secrets, plain.looks_back) == (CsvOptions(), Expect(), (), False)


def test_defaults_of_all_datasets():
    """A dataset's own keys come first. The identity is that of the same config without `defaults`."""
    defaults = {"format": "csv", "csv": {"delimiter": ";", "null": "-"}, "compression": "gzip", "since": "last_success"}
    plain = {"name": "plain", "source": {"postgres": {"table": "a"}}}
    own = {
        "name": "own",
        "source": {"postgres": {"table": "b"}},
        "csv": {"null": "~"},
        "since": None,
        "format": "ndjson",
    }

    job = AgencyJobConfig.model_validate({"defaults": defaults, "datasets": [plain, own]})

    first, second = job.datasets
    assert (first.format, first.csv.delimiter, first.csv.null) == (FormatName.CSV, ";", "-")
    assert (first.compression, first.since) == (Compression.GZIP, "last_success")
    assert (second.format, second.csv.delimiter, second.csv.null) == (FormatName.NDJSON, ";", "~")
    assert (second.compression, second.since) == (Compression.GZIP, None)
    spelt_out = [{**defaults, **plain}, {**defaults, **own, "csv": {"delimiter": ";", "null": "~"}}]
    assert job.model_dump() == AgencyJobConfig.model_validate({"datasets": spelt_out}).model_dump()


def test_faults_of_defaults(path: Path):
    """They are told once, where they are."""
    path.write_text(yaml.safe_dump({"defaults": {"format": "xml", "name": "a"}, "datasets": [DATASET, DATASET]}))

    with pytest.raises(InvalidJobConfig) as raised:
        load_job_config(path)

    assert str(raised.value).count("xml") + str(raised.value).count("ndjson") == 1
    assert "defaults.format" in str(raised.value)
    assert "defaults.name" in str(raised.value)


def test_a_query_in_a_file(path: Path):
    """Its path is relative to the config's folder. The config is the same as with the query in it."""
    query = "SELECT * FROM a\nWHERE b = $1;\n"
    (path.parent / "sql").mkdir()
    (path.parent / "sql" / "records.sql").write_text(query)

    def loaded(**of_query: str) -> AgencyJobConfig:
        source = {"postgres": {**of_query, "args": ["agency_id"]}}
        path.write_text(yaml.safe_dump({"datasets": [{"name": "records", "source": source}]}))
        return load_job_config(path)

    assert loaded(query_file="sql/records.sql") == loaded(query=query)
    (path.parent / "of-windows.sql").write_text(query, "utf-8-sig")
    assert loaded(query_file="of-windows.sql") == loaded(query=query)
    (path.parent / "misspelt.sql").write_text("SELEC $1")
    (fault,) = faults_without_servers(loaded(query_file="misspelt.sql"), secrets=None, path=path)
    assert "source.postgres.query_file: The query begins with SELEC" in str(fault)
    with pytest.raises(
        InvalidJobConfig,
        match=r"job.yaml:\d+:\d+ datasets.records..source.postgres.query_file: can't be read: No such file",
    ):
        loaded(query_file="records.sql")


def test_limits_of_rejected_rows():
    """A count or a share."""
    assert dataset(on_row_error="skip", max_rejected=5).max_rejected == 5
    assert dataset(on_row_error="quarantine", max_rejected="0.1%").max_rejected == Percent(Decimal("0.1"))


@pytest.mark.parametrize(
    ("options", "looks_back"),
    [
        ({"since": "last_success"}, True),
        ({"since": "last_success", "overlap": "5m"}, True),
        ({"expect": {"max_change": "20%"}}, True),
        ({"expect": {"min_rows": 1}}, False),
    ],
)
def test_who_looks_back(options: dict[str, Any], looks_back: bool):
    """The last successful run is asked for only where it is needed."""
    assert dataset(**options).looks_back == looks_back


def test_a_step_may_have_a_timeout():
    """Beside the one key that names it, on either side."""
    steps = dataset(steps=[{"select": ["a"], "timeout": "30s"}, {"timeout": "1m", "filter": "a > 1"}]).steps

    assert [step.timeout for step in steps] == [timedelta(seconds=30), timedelta(minutes=1)]
    assert steps[1].kind == "filter"


# -- destinations --------------------------------------------------------------------------------

S3 = {"s3": {"bucket": "exports", "prefix": "agencies"}}
FILES = {"file": {"path": "/exports"}}
TABLES = {"postgres": {"dsn": "warehouse"}}


def with_destinations(*destinations: Any) -> AgencyJobConfig:
    return AgencyJobConfig.model_validate({"datasets": [DATASET], "destinations": destinations})


def test_destinations_of_all_kinds():
    """Each is told by its one key, and gives its options in the same way."""
    config = with_destinations(TABLES, FILES, S3)

    assert config.destinations is not None
    assert [each.kind for each in config.destinations] == ["postgres", "file", "s3"]
    assert config.destinations[1].options.path == Path("/exports")
    assert config.secrets == ("warehouse",)


@pytest.mark.parametrize(
    ("destinations", "message"),
    [
        ([], "at least 1"),
        ([{"ftp": {}}], "unknown destination. A destination is a mapping with one of the keys s3, file, postgres"),
        ([S3, {"acme.lake": {}}], "no installed package provides 'acme.lake'"),
        ([{**S3, **FILES}], "needs one key, and has 's3', 'file'"),
        ([{"file": {"path": "exports"}}], "must be an absolute path, not 'exports'"),
    ],
)
def test_destinations_that_cannot_be(destinations: list[Any], message: str):
    """A job without a place for its manifest is none."""
    with pytest.raises(ValidationError, match=message):
        with_destinations(*destinations)


def test_tables_only():
    """The manifest is among them, but rejected rows are objects."""
    assert with_destinations(TABLES).destinations is not None
    with pytest.raises(ValidationError, match="'records' has `on_row_error: quarantine`, and rejected rows are stored"):
        AgencyJobConfig.model_validate(
            {"datasets": [{**DATASET, "on_row_error": "quarantine"}], "destinations": [TABLES]}
        )


@pytest.mark.usefixtures("_acme")
def test_a_plugin_beside_tables_holds_no_manifest():
    """It may have objects, which a manifest among tables would not list."""
    with pytest.raises(ValidationError, match="none of the destinations is s3 or file: one must be, to hold the man"):
        with_destinations(TABLES, {"acme.lake": {"limit": 3}})


# -- parts of other packages ---------------------------------------------------------------------


class Options(BaseModel):
    limit: int
    secrets: tuple[str, ...] = ("acme_key",)


PLUGIN = Plugin(options=Options, build=lambda *args, **names: None)


@pytest.fixture
def _acme() -> Iterator[None]:
    with installed(
        *(
            EntryPoint(name=f"acme.{name}", value=f"{__name__}:PLUGIN", group=group)
            for name, group in (("geocode", STEPS), ("crm", SOURCES), ("lake", DESTINATIONS))
        )
    ):
        yield


@pytest.fixture
def acme(_acme: None) -> AgencyJobConfig:
    """A job whose source, step and one destination are of another package."""
    return AgencyJobConfig.model_validate(
        {
            "datasets": [
                {
                    "name": "records",
                    "source": {"acme.crm": {"limit": 1}},
                    "steps": [{"acme.geocode": {"limit": "2"}, "timeout": "5s"}],
                }
            ],
            "destinations": [S3, {"acme.lake": {"limit": 3}}],
        }
    )


def test_parts_of_other_packages(acme: AgencyJobConfig):
    """Their options are checked by their own types, and tell which secrets they need."""
    (records,) = acme.datasets
    (step,) = records.steps

    assert (records.source.kind, records.source.options) == ("acme.crm", Options(limit=1))
    assert (step.kind, step.options, step.timeout) == ("acme.geocode", Options(limit=2), timedelta(seconds=5))
    assert acme.destinations is not None
    assert (acme.destinations[1].kind, acme.destinations[1].options) == ("acme.lake", Options(limit=3))
    assert acme.secrets == ("acme_key",)
    assert not acme.needs_source_database


def test_parts_of_other_packages_are_shown_as_they_were_written(acme: AgencyJobConfig):
    """What `config show` prints is a config again."""
    shown = acme.model_dump(mode="json", by_alias=True, exclude_none=True)

    assert shown["datasets"][0]["source"] == {"acme.crm": {"limit": 1, "secrets": ["acme_key"]}}
    assert shown["datasets"][0]["steps"] == [{"acme.geocode": {"limit": 2, "secrets": ["acme_key"]}, "timeout": "5s"}]
    assert AgencyJobConfig.model_validate(shown) == acme


def test_a_config_goes_through_json_and_back():
    """What `config show` prints, with every default, is the same config."""
    config = AgencyJobConfig.model_validate({**yaml.safe_load(EXAMPLE), "destinations": [S3, FILES, TABLES]})

    assert AgencyJobConfig.model_validate(config.model_dump(mode="json", by_alias=True)) == config


def test_increments_replace_nothing() -> None:
    """A table that is replaced by an increment would keep nothing else."""
    dataset = {"name": "records", "source": {"postgres": {"query": "SELECT"}}, "since": "last_success"}
    table = {"postgres": {"dsn": "warehouse_dsn", "mode": "replace"}}
    with pytest.raises(ValidationError, match="use `mode: merge`"):
        AgencyJobConfig.model_validate({"datasets": [dataset], "destinations": [{"file": {"path": "/a"}}, table]})


@pytest.mark.parametrize(
    "twice",
    [
        [{"s3": {"bucket": "exports", "prefix": "a/"}}, {"s3": {"bucket": "exports", "prefix": "/a", "sse": "AES256"}}],
        [{"file": {"path": "/a"}}, {"file": {"path": "/a/"}}],
    ],
)
def test_destinations_differ(twice: list[dict[str, object]]) -> None:
    """One place can't hold the same artifact twice."""
    dataset = {"name": "records", "source": {"postgres": {"query": "SELECT"}}}
    with pytest.raises(ValidationError, match="two destinations are the same place"):
        AgencyJobConfig.model_validate({"datasets": [dataset], "destinations": twice})
