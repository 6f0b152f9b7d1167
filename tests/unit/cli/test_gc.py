"""`gc`: what it says of what it removed and what it left, and how it ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.cli import gc
from pipeline_processing.cli.main import main
from pipeline_processing.errors import AccessDenied, DestinationUnavailable, ForeignPrefix, PipelineError
from pipeline_processing.runs.clean_up import Amount
from pipeline_processing.runs.garbage import Collected
from pipeline_processing.settings.settings import Settings

NOTHING: dict[str, Any] = {"removed": Amount(), "in_use": 0, "unknown": 0, "elsewhere": {}, "problems": ()}


class Collector:
    """In place of the real one: gives what it is told, and remembers how it was asked for."""

    def __init__(self) -> None:
        self.gives: Collected | PipelineError = Collected(**NOTHING)
        self.dry_run: bool | None = None
        self.config: AgencyJobConfig | None = None

    async def collect(self) -> Collected:
        if isinstance(self.gives, PipelineError):
            raise self.gives
        return self.gives


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Collector:
    collector = Collector()

    @asynccontextmanager
    async def opened(
        _: Settings, config: AgencyJobConfig | None, *, mask: object, dry_run: bool
    ) -> AsyncIterator[Collector]:
        collector.config, collector.dry_run = config, dry_run
        yield collector

    def settings(*, job_config_file: Path | None) -> Settings:
        return Settings(job_config_file=job_config_file)

    monkeypatch.setattr("pipeline_processing.app.one_run.garbage_collector", opened)
    monkeypatch.setattr("pipeline_processing.telemetry.logs.configure_logs", lambda **_: None)
    monkeypatch.setattr(gc, "current_settings", settings)
    return collector


def test_nothing_to_do_is_said(collector: Collector, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody has to wonder whether it worked."""
    assert main(["gc"]) == 0
    assert capsys.readouterr() == ("removed  nothing\n", "")
    assert (collector.config, collector.dry_run) == (None, False)


def test_json_has_the_numbers(collector: Collector, capsys: pytest.CaptureFixture[str]) -> None:
    """One object."""
    collector.gives = Collected(**{**NOTHING, "in_use": 2, "elsewhere": {"s3://old": Amount(uploads=1)}})

    assert main(["gc", "-o", "json", "--dry-run"]) == 0

    assert json.loads(capsys.readouterr().out) == {
        "removed": {"uploads": 0, "failed_runs": 0},
        "in_use": 2,
        "unknown": 0,
        "elsewhere": {"s3://old": {"uploads": 1, "failed_runs": 0}},
        "dry_run": True,
    }


def test_what_was_removed_and_what_was_left_is_said(collector: Collector, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each reason to leave something."""
    collector.gives = Collected(
        removed=Amount(uploads=1234, failed_runs=1),
        in_use=2,
        unknown=1,
        elsewhere={"s3://old/b": Amount(failed_runs=2), "s3://old/a": Amount(uploads=1)},
        problems=(),
    )

    assert main(["gc"]) == 0

    assert capsys.readouterr() == (
        "removed  1,234 uploads and the objects of 1 failed run\n"
        "left     2 uploads that runs may still complete\n"
        "left     1 upload of no run in this history: on S3 the bucket's lifecycle rule removes them\n"
        "left     1 upload at s3://old/a: only `gc` with that destination removes them\n"
        "left     the objects of 2 failed runs at s3://old/b: only `gc` with that destination removes them\n",
        "",
    )


def test_a_dry_run_says_what_would_be_removed(collector: Collector, capsys: pytest.CaptureFixture[str]) -> None:
    """So that nobody takes it for done."""
    collector.gives = Collected(**{**NOTHING, "removed": Amount(uploads=3), "in_use": 1})

    assert main(["gc", "--dry-run"]) == 0

    assert collector.dry_run is True
    assert capsys.readouterr().out == "would remove  3 uploads\nleft          1 upload that runs may still complete\n"


def test_what_could_not_be_removed_is_told_at_the_end(collector: Collector, capsys: pytest.CaptureFixture[str]) -> None:
    """Each message once, with the code of the gravest error; what was removed is said all the same."""
    denied = AccessDenied("Can't abort the upload of s3://exports/a: AccessDenied.")
    down = DestinationUnavailable("Can't reach http://app:tops3cret@s3/.")
    collector.gives = Collected(**{**NOTHING, "removed": Amount(uploads=1), "problems": (down, denied, denied)})

    assert main(["gc"]) == 77

    out, err = capsys.readouterr()
    assert out == "removed  1 upload\n"
    assert err.count("\n") == err.count("Error: ") == 2
    assert f"Error: {denied}\n" in err
    assert "tops3cret" not in err


def test_anothers_prefix_is_78(collector: Collector, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was removed, and nothing is said but that."""
    collector.gives = ForeignPrefix("s3://exports belongs to another installation.")

    assert main(["gc"]) == 78
    assert capsys.readouterr() == ("", "Error: s3://exports belongs to another installation.\n")


def test_the_job_config_names_the_destination(collector: Collector, tmp_path: Path) -> None:
    """As it does for `run`."""
    config = tmp_path / "job.yaml"
    config.write_text(
        "datasets: [{name: records, source: {postgres: {query: SELECT 1}}}]\ndestinations: [{s3: {bucket: exports}}]\n"
    )

    assert main(["gc", "--config", str(config)]) == 0

    assert collector.config is not None
    assert collector.config.destinations is not None


def test_a_wrong_job_config_is_65(collector: Collector, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its destination may be the very thing that is wrong."""
    (tmp_path / "job.yaml").write_text("datasets: []")

    assert main(["gc", "--config", str(tmp_path / "job.yaml")]) == 65
    assert "datasets" in capsys.readouterr().err


def test_without_a_destination_it_is_78(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With the remedy; the history isn't asked before."""
    monkeypatch.setattr("pipeline_processing.telemetry.logs.configure_logs", lambda **_: None)
    monkeypatch.setenv("PIPELINE_HISTORY__DSN", "postgresql://app@127.0.0.1:1/nowhere")
    for name in ("PIPELINE_DESTINATION", "PIPELINE_JOB_CONFIG_FILE", "PIPELINE_SETTINGS_FILE"):
        monkeypatch.delenv(name, raising=False)

    assert main(["gc"]) == 78
    assert "PIPELINE_DESTINATION" in capsys.readouterr().err
