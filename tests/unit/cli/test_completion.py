"""What a shell offers for the values of options."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pipeline_processing.cli.main import main
from pipeline_processing.history.memory.store import memory_run_store
from pipeline_processing.history.memory.table import RunTable
from pipeline_processing.model import JobRequest
from pipeline_processing.runs.store import Incoming, RunStore
from pipeline_processing.settings.settings import Settings
from tests.unit.stepped_clock import SteppedClock

JOB = """
job: agency_data_job
datasets:
  - {name: records, source: {postgres: {query: "SELECT 1 WHERE $1 > 0", args: [agency_id]}}}
  - {name: events, source: {postgres: {query: "SELECT 1 WHERE $1 > 0", args: [agency_id]}}}
"""
Offered = Callable[[str], list[str]]


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Offered:
    """Returns what bash is offered behind these words."""

    def offered(line: str) -> list[str]:
        monkeypatch.setenv("_PIPELINE_PROCESSING_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", f"pipeline-processing {line}")
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" "))))
        with pytest.raises(SystemExit) as ended:
            main([])
        assert ended.value.code == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out.split()

    return offered


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("hist", ["history"]),
        ("config ", ["check", "show"]),
        ("run ", ["agency_data_job"]),
        ("submit agency_data_job --format ", ["ndjson", "csv", "parquet"]),
        ("history --state pr", ["prepared"]),
        ("history --state failed --state c", ["cancelled"]),
        ("history -o ", ["table", "wide", "json"]),
    ],
)
def test_values_that_are_always_the_same(offered: Offered, line: str, values: Sequence[str]) -> None:
    """They need no settings."""
    assert [value for value in offered(line) if value in values] == values


def test_datasets_are_those_of_the_job_config(
    offered: Offered, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The one that the environment names, or --config; without one, there are none."""
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "other.yaml").write_text(JOB.replace("records", "fees"))

    assert offered("run agency_data_job --dataset ") == []
    monkeypatch.setenv("PIPELINE_JOB_CONFIG_FILE", str(tmp_path / "job.yaml"))
    assert offered("run agency_data_job --dataset ") == ["records", "events"]
    assert offered("run agency_data_job --dataset r") == ["records"]
    assert offered(f"run agency_data_job --config {tmp_path / 'other.yaml'} --dataset ") == ["fees", "events"]
    monkeypatch.setenv("PIPELINE_JOB_CONFIG_FILE", str(tmp_path / "gone.yaml"))
    assert offered("run agency_data_job --dataset ") == []


def test_run_ids_are_the_newest(offered: Offered, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the history answers."""
    clock = SteppedClock()
    store = memory_run_store(RunTable(clock=clock))

    async def accept() -> None:
        for run_id in ("a-1", "b-1", "a-2"):
            request = JobRequest(agency_id=1)
            await store.intake.accept(Incoming(request, run_id=run_id, trace_id="0" * 32, span_id="0" * 16))
            clock.pass_(1)

    asyncio.run(accept())

    @asynccontextmanager
    async def opened(settings: Settings) -> AsyncIterator[RunStore]:
        yield store

    assert offered("cancel ") == []  # there are no settings
    monkeypatch.setattr("pipeline_processing.app.history.run_store", opened)
    assert offered("cancel ") == ["a-2", "b-1", "a-1"]
    assert offered("history --run-id a-") == ["a-2", "a-1"]
