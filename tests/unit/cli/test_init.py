"""`init`: what it writes, and what it says of the next steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline_processing.app.drafting import Draft
from pipeline_processing.cli import init
from pipeline_processing.cli.main import main
from pipeline_processing.settings.settings import Settings

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def set_to(monkeypatch: pytest.MonkeyPatch) -> Callable[[Settings], None]:
    """The database has one table. Returns what changes the settings."""

    async def drafted(_: Settings, *, agency_column: str | None) -> Draft:
        return Draft(f"# {agency_column}\n", ("records",), ("lists",))

    def set_settings(settings: Settings) -> None:
        monkeypatch.setattr(init, "current_settings", lambda: settings)

    monkeypatch.setattr(init, "log_to_stderr", lambda **_: None)  # other tests read the logs
    monkeypatch.setattr("pipeline_processing.app.drafting.draft_of_database", drafted)
    set_settings(Settings())
    return set_settings


def test_it_writes_the_config_and_its_schema(tmp_path: Path, capsys: Captured) -> None:
    """It prints the path, and tells the next steps; a schema that is there stays."""
    file, schema = tmp_path / "my jobs.yaml", tmp_path / "job-config.schema.json"

    assert main(["init", str(file), "--agency-column", "tenant"]) == 0

    assert file.read_text() == "# tenant\n"
    assert json.loads(schema.read_text())["title"]
    said = capsys.readouterr()
    assert said.out == f"{file}\n"
    assert "It exports 1 table, and leaves 1 out." in said.err
    assert f"export PIPELINE_JOB_CONFIG_FILE='{file}'" in said.err
    assert "export PIPELINE_DESTINATION=" in said.err

    schema.write_text("{}")
    assert main(["init", str(tmp_path / "other.yaml")]) == 0
    assert schema.read_text() == "{}"


def test_a_destination_that_is_set_needs_no_words(
    tmp_path: Path, capsys: Captured, set_to: Callable[[Settings], None]
) -> None:
    """The other steps stay."""
    set_to(Settings.model_validate({"destination": "s3://exports"}))

    assert main(["init", str(tmp_path / "job.yaml")]) == 0

    said = capsys.readouterr().err
    assert "PIPELINE_DESTINATION" not in said
    assert "config check --connect" in said


@pytest.mark.parametrize("name", ["there.yaml", "no/folder/job.yaml"])
def test_what_can_t_be_written_is_wrong_usage(name: str, tmp_path: Path, capsys: Captured) -> None:
    """A file that is there stays as it is."""
    (tmp_path / "there.yaml").write_text("mine")

    assert main(["init", str(tmp_path / name)]) == 64

    assert name in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("there.yaml", "mine")]
