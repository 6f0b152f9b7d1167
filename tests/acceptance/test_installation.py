"""The wheel, installed from the index as a user does it, by the pips that supported Pythons came with at first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OLDEST, *LATER = "22.3", "23.2.1", "24.2", "25.2"
"""What the first releases of Python 3.11, 3.12, 3.13 and 3.14 bundled. Later ones resolve more."""


def run(*command: str | Path, **environment: str) -> str:
    """What a command prints, which has to succeed."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project's."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.parametrize("version", [OLDEST, *(pytest.param(each, marks=pytest.mark.long) for each in LATER)])
def test_an_old_pip_finds_versions_that_go_together(wheel: Path, tmp_path: Path, version: str) -> None:
    """In an empty environment. The oldest of them installs what it found, and the command starts."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", tmp_path / "pip", f"pip=={version}")
    bin_ = tmp_path / "venv" / "bin"
    pip = (bin_ / "python", "-m", "pip", "--disable-pip-version-check", "install", "--only-binary", ":all:")

    if version != OLDEST:
        run(*pip, "--dry-run", wheel, PYTHONPATH=str(tmp_path / "pip"))
    else:
        run(*pip, "--no-compile", wheel, PYTHONPATH=str(tmp_path / "pip"))
        assert "agency_data_job" in run(bin_ / "pipeline-processing", "run", "--help")
