"""The wheel, installed from the index as a user does it, by the pips that supported Pythons came with at first."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
PIPS = ("22.3", "23.2.1", "24.2", "25.2")
"""What the first releases of Python 3.11, 3.12, 3.13 and 3.14 bundled. Later ones resolve more."""


def run(*command: str | Path, **environment: str) -> str:
    """What a command prints, which has to succeed."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project's, built without a compiler, and so without the native reader."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("LICENSE", "README.md", "THIRD_PARTY.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "service", folder / "service", ignore=shutil.ignore_patterns("*.so", "*.egg-info"))
    build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist", folder)
    run(sys.executable, "-m", "pip", *build, CC="false", CXX="false")
    (built,) = (folder / "dist").glob("*.whl")
    assert not any(name.endswith(".so") for name in ZipFile(built).namelist())
    return built


def test_it_installs_and_starts(wheel: Path, tmp_path: Path) -> None:
    """In an empty environment, by uv, which takes a tenth of pip's time."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path)
    run(sys.executable, "-m", "uv", "pip", "install", "--python", tmp_path / "bin" / "python", wheel)
    assert "agency_data_job" in run(tmp_path / "bin" / "pipeline-processing", "run", "--help")


@pytest.mark.long
@pytest.mark.parametrize("version", PIPS)
def test_an_old_pip_finds_versions_that_go_together(wheel: Path, tmp_path: Path, version: str) -> None:
    """In an empty environment. What the oldest of them finds is installed, and the command starts."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", tmp_path / "pip", f"pip=={version}")
    python, report = tmp_path / "venv" / "bin" / "python", tmp_path / "report.json"
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--only-binary", ":all:")

    run(*pip, "--dry-run", "--report", report, wheel, PYTHONPATH=str(tmp_path / "pip"))
    if version == PIPS[0]:
        found = [each["download_info"]["url"] for each in json.loads(report.read_text())["install"]]
        run(sys.executable, "-m", "uv", "pip", "install", "--no-deps", "--python", python, *found)
        assert "agency_data_job" in run(python.with_name("pipeline-processing"), "run", "--help")
