"""How `doctor` opens servers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr

from pipeline_processing.app import doctor
from pipeline_processing.settings.settings import Settings
from pipeline_processing.telemetry.masking import Mask


async def test_a_silent_history_is_no_fault_of_the_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked who owns the destination. If it never answers, that stays open, and all else is checked."""
    monkeypatch.setattr(doctor, "_HISTORY_SECONDS", 0.1)
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        settings = Settings.model_validate(
            {"destination": tmp_path.as_uri(), "source": {"dsn": SecretStr(f"postgresql://a@127.0.0.1:{port}/b")}}
        )
        found = await doctor.examine_all(settings, None, only=["destinations"], mask=Mask())
    assert {each.check: each.state for each in found} == {"installation": "skipped", "publishes": "ok", "staging": "ok"}
