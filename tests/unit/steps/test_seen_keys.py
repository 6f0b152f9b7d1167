"""Which keys have been seen, however many."""

import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.errors import SettingsError, TransientError
from pipeline_processing.steps import seen_keys
from pipeline_processing.steps.seen_keys import SeenKeys


async def fill(seen: SeenKeys) -> None:
    """20,000 keys."""
    for batch in range(20):
        await seen.add([f"{batch}.{number}".encode() for number in range(1000)])


HANDLES = Path("/proc/self/fd")


def temporary_files() -> list[str]:
    """Those of this process."""
    names = [str(handle.readlink()) for handle in HANDLES.iterdir() if handle.is_symlink()]
    return [name for name in names if "etilqs" in name or "pipeline-processing-" in name]


KEYS = st.sampled_from([b"", b"a", b"b", b"\x00", b"a" * 1000])


@given(batches=st.lists(st.lists(KEYS, max_size=6), max_size=5))
async def test_a_key_is_new_once(batches: list[list[bytes]]):
    """Within a batch and over all of them, as in a set."""
    expected: set[bytes] = set()
    async with SeenKeys("test") as seen:
        for keys in batches:
            new = []
            for key in keys:
                new.append(key not in expected)
                expected.add(key)
            assert await seen.add(keys) == new


async def test_nobody_shares_it():
    """What one has seen is new to another."""
    async with SeenKeys("one") as one, SeenKeys("other") as other:
        assert await one.add([b"k"]) == [True]
        assert await other.add([b"k"]) == [True]


async def test_keys_beyond_what_is_held_in_memory(monkeypatch: pytest.MonkeyPatch):
    """With room for a few pages, keys come back from the file."""
    settings = [setting for setting in seen_keys._SETTINGS if not setting.startswith("cache_size")]
    monkeypatch.setattr(seen_keys, "_SETTINGS", (*settings, "cache_size=4"))

    async with SeenKeys("test") as seen:
        await fill(seen)
        again = [f"{batch}.{number}".encode() for number in range(1000) for batch in range(20)]
        assert not any(await seen.add(again))
        assert all(await seen.add([key + b"x" for key in again]))


@pytest.mark.skipif(not HANDLES.is_dir(), reason="only Linux tells which files are open")
async def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch):
    """Its file has no name, also while it is open."""
    monkeypatch.setattr(seen_keys, "_SETTINGS", (*seen_keys._SETTINGS, "cache_size=4"))

    async with SeenKeys("test") as seen:
        await fill(seen)
        held = temporary_files()
        assert held
        assert all(name.endswith("(deleted)") for name in held)
    assert temporary_files() == []


async def test_a_full_disk_may_have_room_later(monkeypatch: pytest.MonkeyPatch):
    """Told with its remedy. A limit on the database's pages stands for the disk's end."""
    monkeypatch.setattr(seen_keys, "_SETTINGS", (*seen_keys._SETTINGS, "max_page_count=3"))

    async with SeenKeys("test") as seen:
        with pytest.raises(TransientError, match=r"full.*TMPDIR") as raised:
            await fill(seen)
    assert isinstance(raised.value.__cause__, sqlite3.Error)
    assert raised.value.retryable


async def test_its_file_is_where_temporary_files_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What the remedy says is true, however few keys there are."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with SeenKeys("test") as seen:
        await seen.add([b"k"])
        assert [name for name in temporary_files() if name.startswith(str(tmp_path))]
    assert os.listdir(tmp_path) == []


async def test_without_temporary_files_it_isnt_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Whoever runs the service is told before a row is read."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(SettingsError, match="TMPDIR"):
        async with SeenKeys("test"):
            pytest.fail("opened")
