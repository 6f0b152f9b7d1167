"""What a folder may lack is found."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import pytest

from pipeline_processing.destinations.files.destination import FileDestination
from pipeline_processing.doctor.checking import Finding, examined
from pipeline_processing.doctor.files import CHECKS, Folder
from pipeline_processing.plan import Artifact


async def examine(destination: FileDestination, path: Path) -> dict[str, Finding]:
    async def verify() -> None:
        await destination.verify_installation(UUID(int=0))

    folder = Folder(destination, path, verify=verify)
    try:
        return {each.check: each for each in await examined("folder", CHECKS, folder)}
    finally:
        await folder.remove_all()


async def test_a_folder_that_can_be_used(tmp_path: Path) -> None:
    """And nothing is left in it, but the place for staged files."""
    found = await examine(FileDestination(path=tmp_path), tmp_path)
    assert {each.state for each in found.values()} == {"ok"}, found
    assert set(os.listdir(tmp_path)) <= {".staging"}


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """78, and no more is tried."""
    found = await examine(FileDestination(path=tmp_path / "x"), tmp_path / "x")
    assert next((each.state, each.exit_code) for each in found.values()) == ("missing", 78)


async def test_files_that_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system whose links do."""

    async def complete(self: FileDestination, artifact: Artifact, **_: object) -> None:
        path = tmp_path / artifact.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}\n")

    monkeypatch.setattr(FileDestination, "complete", complete)
    found = await examine(FileDestination(path=tmp_path), tmp_path)
    assert (found["publishes"].state, found["publishes"].exit_code) == ("missing", 78)
    assert "promises 1 and 4" in found["publishes"].cost
