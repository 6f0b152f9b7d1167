"""Templates of object keys: which are refused, which folder each row's artifact has, and what readers then see."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from msgspec import Raw
from pydantic import ValidationError
from structlog.testing import capture_logs

from pipeline_processing.agency_data_job.checking import faults_without_servers
from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.object_keys import NO_VALUE, Folders, PartitionBy, check_lengths
from pipeline_processing.errors import DataError, DestinationUnavailable, InvalidStep
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.model import RunState
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Columns, Kind
from pipeline_processing.runs.garbage import GarbageCollector
from tests.unit.in_memory import Service, job, refused
from tests.unit.virtual_clock import EPOCH, in_virtual_time

RUN = "run_id={run_id}"
BY_NAME = f"{RUN}/{{dataset}}/name={{name}}"
DOWN = DestinationUnavailable("the destination is down")


def folders(template: str, columns: Columns = UNKNOWN_COLUMNS) -> Folders:
    taken_at = datetime(2026, 1, 18, 23, 59, tzinfo=UTC)
    return Folders(template, dataset="records", agency_id=7, run_id="r.1", snapshot_at=taken_at, columns=columns)


def folder_of(value: Any, columns: Columns = UNKNOWN_COLUMNS) -> str:
    ((folder, _),) = folders(f"{RUN}/a={{a}}", columns).divide([{"a": value}], first=None)
    return folder.removeprefix("run_id=r.1/a=")


def of_kind(kind: Kind, carry: str) -> Columns:
    return Columns((column_of_kind("a", kind, carry),))


# -- the config ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{dataset}/{date}", "must have the folder `run_id={run_id}` once"),
        (f"{RUN}/{RUN}", "must have the folder `run_id={run_id}` once"),
        (f"{RUN}/run_id={{name}}", "must have the folder `run_id={run_id}` once"),
        ("x-run_id={run_id}", "must have the folder `run_id={run_id}` once"),
        (f"/{RUN}", "the folder ''"),
        (f"{RUN}/", "the folder ''"),
        (f"{RUN}/../x", "the folder '..'"),
        (f"_hidden/{RUN}", "the folder '_hidden'"),
        (f"part-00000.csv/{RUN}", "the folder 'part-00000.csv'"),
        (f"{RUN}/{{name}}", "begin it with text, as in `name={name}`"),
        (f"{RUN}/a b", "outside braces, use letters"),
        (f"{RUN}/{{", "can't be read"),
        (f"{RUN}/a={{}}", "must have a plain name"),
    ],
)
def test_refused_templates(template: str, expected: str):
    """A key that two runs would share, that hides objects, or that no destination can have."""
    with pytest.raises(ValidationError, match=expected.replace("{", r"\{").replace("}", r"\}").replace("..", r"\.\.")):
        job("records", object_key=template)


def test_two_datasets_with_one_template():
    """They would write the same objects, unless the dataset's name is a part of it."""
    with pytest.raises(ValidationError, match=r"'one' and 'two' have the same `object_key`: use \{dataset\} in it"):
        job("one", "two", object_key=RUN)
    assert job("one", "two", object_key=f"{RUN}/{{dataset}}").datasets[0].object_key is not None


def faults(template: str, *steps: Any) -> list[str]:
    """What `config check` tells without a server."""
    config: AgencyJobConfig = job("records", object_key=template, steps=list(steps), shared=True)
    return [str(fault) for fault in faults_without_servers(config, secrets=None)]


def test_columns_are_checked_after_the_steps():
    """A name that is neither built in nor a column is found before a run."""
    select = {"select": ["id", "name"]}
    assert faults(f"{RUN}/{{dataset}}/{{date}}/{{agency_id}}/name={{name}}", select) == []
    (fault,) = faults(f"{RUN}/region={{region}}", select)
    assert "'region'" in fault
    assert "id, name" in fault
    (fault,) = faults(f"{RUN}/name={{name}}", select, {"drop": ["name"]})
    assert "'name'" in fault


@pytest.mark.parametrize("kind", [Kind.FLOAT, Kind.JSON, Kind.TIMESTAMP, Kind.TIMESTAMPTZ])
def test_kinds_that_name_no_folder(kind: Kind):
    """Documents, floats and instants."""
    context: Any = type("Context", (), {"columns": of_kind(kind, "json")})
    with pytest.raises(InvalidStep, match=f"of kind {kind}"):
        PartitionBy(["a"], context)


# -- folders -------------------------------------------------------------------------------------


def test_built_in_names():
    """The day is the snapshot's, in UTC."""
    key = folders(f"exports/{{date}}/{{agency_id}}/{RUN}/{{dataset}}-all")
    assert key.only == "exports/2026-01-18/7/run_id=r.1/records-all"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("north", "north"),
        ("a/b", "a%2Fb"),
        ("..", ".."),
        ("50% ü=", "50%25%20%C3%BC%3D"),
        (None, NO_VALUE),
        ("", NO_VALUE),
        (12, "12"),
        (Raw(b"1.50"), "1.50"),
        (Decimal("1.50"), "1.50"),
        (True, "true"),
        (date(2026, 1, 18), "2026-01-18"),
    ],
)
def test_values_are_percent_encoded(value: Any, expected: str):
    """So that different values have different folders, and none of them leads elsewhere."""
    assert folder_of(value) == expected


@pytest.mark.parametrize(("carry", "carried"), [("json", True), ("text", "t")])
def test_a_boolean_has_the_same_folder_in_every_format(carry: str, carried: Any):
    """NDJSON and CSV carry it in their own forms."""
    assert folder_of(carried, of_kind(Kind.BOOLEAN, carry)) == "true"


@pytest.mark.parametrize("value", [1.5, {"a": 1}, [1], datetime(2026, 1, 18, tzinfo=UTC)])
def test_values_of_user_code_that_name_no_folder(value: Any):
    """They fail the run before anything is published."""
    with pytest.raises(DataError, match="names the column 'a', and a value there is a"):
        folder_of(value)


def test_names_that_are_too_long():
    """They would be refused only after the decision."""
    check_lengths("a" * 255, urls=["s3://bucket"])
    with pytest.raises(DataError, match="a name of 256 bytes"):
        check_lengths("a" * 256, urls=["s3://bucket"])
    with pytest.raises(DataError, match="1,025 bytes long"):
        check_lengths("/".join(["a" * 200] * 5), urls=["memory:", "s3://" + "b" * 15])


# -- a run ---------------------------------------------------------------------------------------


def partitioned(**options: Any) -> Service:
    """Rows of two names, not in order: the batch goes on with the name that the last one ended with."""
    rows = {"records": [[(1, "a"), (2, "b"), (3, "a/c")], [(4, "a"), (5, "a/c")], [(6, "b")]]}
    return Service(config=job("records", object_key=BY_NAME, **options), rows=rows)


@in_virtual_time
async def test_rows_go_to_the_folders_of_their_values():
    """Each artifact has rows of one value only; the manifest is where it always is."""
    service = partitioned()
    await service.accept()
    with capture_logs() as logs:
        attempted = await service.attempt()

    warnings = [each for each in logs if each["log_level"] == "warning"]
    assert [each["event"] for each in warnings] == ["rows aren't sorted by object_key: they become more artifacts"]
    assert attempted.run.state is RunState.SUCCEEDED
    seen = service.visible()
    assert seen.pop("run_id=r/_manifest.json")
    folder = "run_id=r/records/name="
    assert seen == {
        f"{folder}a/part-00000.ndjson": b'{"id":1,"name":"a"}\n',
        f"{folder}b/part-00000.ndjson": b'{"id":2,"name":"b"}\n',
        f"{folder}a%2Fc/part-00000.ndjson": b'{"id":3,"name":"a/c"}\n{"id":5,"name":"a/c"}\n',
        f"{folder}a/part-00001.ndjson": b'{"id":4,"name":"a"}\n',
        f"{folder}b/part-00001.ndjson": b'{"id":6,"name":"b"}\n',
    }
    assert attempted.run.rows_written == 6


@in_virtual_time
async def test_limits_hold_for_each_folder():
    """A CSV header stands in each artifact, and no artifact has too many rows."""
    rows = {"records": [[(number, "a" if number < 4 else "b") for number in range(6)]]}
    config = job("records", object_key=BY_NAME, format="csv", max_artifact_rows=3)
    service = Service(config=config, rows=rows)
    await service.accept()
    with capture_logs() as logs:
        await service.attempt()

    assert not [each for each in logs if each["log_level"] == "warning"]
    bodies = [body for key, body in sorted(service.visible().items()) if "/records/" in key]
    assert bodies == [b"id,name\n0,a\n1,a\n2,a\n", b"id,name\n3,a\n", b"id,name\n4,b\n5,b\n"]


@in_virtual_time
async def test_no_rows_no_folders():
    """The manifest says that there are none."""
    service = Service(config=job("records", object_key=BY_NAME), rows={"records": []})
    await service.accept()

    assert (await service.attempt()).run.state is RunState.SUCCEEDED
    assert list(service.visible()) == ["run_id=r/_manifest.json"]


@in_virtual_time
async def test_two_datasets_that_meet_in_one_object():
    """Found before the decision: nothing is visible."""
    config = job("a", "b", object_key=f"{RUN}/{{dataset}}")
    changed = {"a": f"{RUN}/name={{name}}", "b": f"{RUN}/name=x"}
    datasets = tuple(each.model_copy(update={"object_key": changed[each.name]}) for each in config.datasets)
    service = Service(
        config=config.model_copy(update={"datasets": datasets}), rows={"a": [[(1, "x")]], "b": [[(2, "y")]]}
    )
    await service.accept()

    attempted = await service.attempt()

    assert attempted.run.state is RunState.FAILED
    assert "Two datasets write the object" in str(attempted.run.error)
    assert service.visible() == {}


@in_virtual_time
async def test_a_lost_attempt_leaves_nothing():
    """Only objects of the second attempt, which reads other rows, are ever visible; gc finds those of the first."""
    service = partitioned()
    service.destination = type(service.destination)(inline_limit=0)
    service.first, service.second = service.executor("first", around=service.between), service.executor("second")
    await service.accept()
    service.between.on_next("exists", refused(DOWN))
    assert (await service.attempt()).run.state is RunState.QUEUED
    assert service.visible() == {}
    service.destination.start("exports/2026-01-18/run_id=r/records/name=a/part-00000.ndjson")  # recorded by nobody
    service.rows = {"records": [[(9, "z")]]}

    await service.clock.sleep(100)
    await service.attempt(service.executor("third"))

    assert sorted(service.visible()) == ["run_id=r/_manifest.json", "run_id=r/records/name=z/part-00000.ndjson"]
    runs = service.runs
    await GarbageCollector(
        leftovers=runs.leftovers, history=runs.history, destinations=service.destinations(service.between)
    ).collect()
    assert service.destination.open_uploads == []


@in_virtual_time
async def test_a_decided_run_keeps_its_keys():
    """Whoever goes on publishes what was decided, though the date has changed since."""
    service = Service(config=job("small", object_key=f"{{date}}/{RUN}"))
    await service.accept()
    service.between.on_next("complete", refused(DOWN))
    assert (await service.attempt()).run.state is RunState.PREPARED

    await service.clock.sleep(3 * 86400)
    assert (await service.attempt(service.second)).run.state is RunState.SUCCEEDED

    assert f"{EPOCH.date()}/run_id=r/part-00000.ndjson" in service.visible()


@in_virtual_time
async def test_readers_take_partitions_from_folders(tmp_path: Path):
    """DuckDB decodes the names, and tells null."""
    rows = {"records": [[(1, "a/b"), (2, "ö"), (3, None)]]}
    config = job("records", object_key=f"{RUN}/{{dataset}}/partition={{name}}", format="parquet")
    service = Service(config=config, rows=rows)
    await service.accept()
    await service.attempt()

    for key, body in service.visible().items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(body)
    files = f"read_parquet('{tmp_path}/**/*.parquet', hive_partitioning = true)"
    with duckdb.connect() as database:
        found = database.sql(f"SELECT id, name, partition, run_id FROM {files} ORDER BY id").fetchall()
    assert found == [(1, "a/b", "a/b", "r"), (2, "ö", "ö", "r"), (3, None, None, "r")]
