"""Another package's step, source and destination, installed by pip and used by the command line from scratch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.service import (
    SMALL,
    NewService,
    Service,
    files_in,
    message,
    one_dataset,
    published_in,
    staged_in,
)

PROJECT = Path(__file__).parents[1] / "plugin_project"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the package, as `pip install --target` leaves it."""
    folder = tmp_path_factory.mktemp("plugins")
    project = shutil.copytree(PROJECT, folder / "project")  # setuptools leaves things beside what it builds
    install = ["install", "--no-deps", "--no-build-isolation", "--no-index", "--no-compile"]
    subprocess.run(
        [sys.executable, "-m", "pip", *install, "--target", folder / "site", project],
        check=True,
        capture_output=True,
    )
    return folder / "site"


@pytest.fixture
def service(new_service: NewService, tmp_path: Path) -> Iterator[Service]:
    """Started from scratch each time: entry points are remembered by a process."""
    with new_service(tmp_path, warm=False) as opened:
        yield opened


def job(service: Service, folder: Path, columns: list[str]) -> Path:
    """A job config with all three, beside the service's own."""
    query = "SELECT id, name, attributes FROM records WHERE agency_id = $1 AND id <= 1002 ORDER BY id"
    config: dict[str, Any] = one_dataset(query, steps=[{"acme.upper": {"columns": columns}, "timeout": "10s"}])
    config["datasets"].append({"name": "numbers", "source": {"acme.countdown": {"first": 3}}, "format": "csv"})
    config["destinations"] = [
        {"s3": {"bucket": service.bucket, "prefix": "agencies"}},
        {"acme.folder": {"path": str(folder)}},
    ]
    return service.job_config(config)


def test_all_three_are_used_by_one_run(service: Service, installed: Path, tmp_path: Path) -> None:
    """The step's values and the source's rows are in the bucket, and in the destination byte for byte the same."""
    copies = tmp_path / "copies"
    copies.mkdir()
    service.environment["PYTHONPATH"] = str(installed)
    config = job(service, copies, ["name"])

    checked = service.cli("config", "check", "--connect", "--config", config)
    done = service.run(SMALL, "--run-id", "plugged-1", "--config", config)

    assert (checked.returncode, done.returncode) == (0, 0), checked.stderr + done.stderr
    assert "acme.folder" in checked.stdout
    manifest = published_in(service, "plugged-1", SMALL)
    objects = {key: stored.body for key, stored in service.objects().items()}
    folder = f"agencies/agency_id={SMALL}/run_id=plugged-1"
    records = objects[f"{folder}/records/part-00000.ndjson"]
    assert [json.loads(line) for line in records.splitlines()] == [
        {"id": 1001, "name": "RECORD 1, V1", "attributes": {"n": 1, "tags": ["ä"]}},
        {"id": 1002, "name": "RECORD 2, V1", "attributes": {"n": 2, "tags": ["ä"]}},
    ]
    assert objects[f"{folder}/numbers/part-00000.csv"] == b"number\n3\n2\n1\n"
    assert [dataset["rows_read"] for dataset in manifest["datasets"]] == [2, 3]

    copied = {f"agencies/{key}": stored.body for key, stored in files_in(copies).items()}
    assert copied == {key: body for key, body in objects.items() if not key.endswith("_manifest.json")}
    assert staged_in(copies) == []
    assert service.recorded_uploads() == []


def test_its_options_and_columns_are_checked(service: Service, installed: Path, tmp_path: Path) -> None:
    """`config check` names each option that its package refuses, and a column that isn't there; `run` does, too."""
    service.environment["PYTHONPATH"] = str(installed)
    wrong = service.folder / "wrong.yaml"
    text = job(service, tmp_path, ["name"]).read_text()
    wrong.write_text(text.replace("columns:", "colums:").replace("first: 3", "first: -3"))

    refused = service.cli("config", "check", "--config", wrong)
    unknown = service.cli("config", "check", "--connect", "--config", job(service, tmp_path, ["nmae"]))

    assert (refused.returncode, unknown.returncode) == (65, 65)
    told = message(refused)
    for fault in ("columns", "colums", "first"):
        assert fault in told
    assert "'nmae'" in message(unknown)
    assert "id, name, attributes" in message(unknown)


@pytest.mark.parametrize("command", ["check", "run"])
def test_without_the_package_it_is_said_what_is_missing(service: Service, tmp_path: Path, command: str) -> None:
    """65, with the name of each part that no installed package has, and nothing is done."""
    config = job(service, tmp_path, ["name"])

    if command == "check":
        done = service.cli("config", "check", "--config", config)
    else:
        done = service.run(SMALL, "--run-id", "missing-1", "--config", config)

    assert (done.returncode, done.stdout) == (65, "")
    for name in ("acme.upper", "acme.countdown", "acme.folder"):
        assert f"no installed package provides '{name}'" in message(done)
    assert service.state("missing-1") is None
    assert service.listed() == []
