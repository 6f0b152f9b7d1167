"""The spool: pages in, the same pages out."""

from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pytest

from pipeline_processing.errors import SettingsError, TransientError
from pipeline_processing.messaging.port import Outgoing
from pipeline_processing.requests import spool
from pipeline_processing.requests.replay_sources import Candidate
from pipeline_processing.requests.spool import Spool

CANDIDATES = [
    Candidate(
        run_id=f"r{n}",
        agency_id=2**62 + n,
        requested_at=datetime(2026, 1, 18, 10, 0, 0, 123456, tzinfo=UTC) if n else None,
        replay_of="é" if n else None,
        message=Outgoing("topic", None, b"\xff\x00", (("a", b""), ("a", b"\xfe"))) if n else None,
    )
    for n in range(5)
]


@pytest.mark.parametrize("in_memory", [1, 10**6])
def test_pages_come_back_in_order_and_in_reverse(in_memory: int) -> None:
    """In memory and from a file, as often as wanted, with every type that they hold."""
    with patch.object(spool, "_IN_MEMORY", in_memory), Spool(Candidate) as pages:
        pages.add(CANDIDATES[:2])
        pages.add([])
        pages.add(CANDIDATES[2:])

        assert list(pages.pages()) == [CANDIDATES[:2], [], CANDIDATES[2:]]
        assert list(pages.pages(backwards=True)) == [CANDIDATES[:1:-1], [], CANDIDATES[1::-1]]
        assert [each for page in pages.pages() for each in page] == CANDIDATES


def test_nothing_is_left_behind() -> None:
    """After the block it is closed."""
    with Spool(Candidate) as pages:
        pages.add(CANDIDATES)
    with pytest.raises(ValueError, match="closed"):
        list(pages.pages())


def test_a_full_disk_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it shows, in writing or in reading what was still buffered."""
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Path("/dev/full").open("w+b"))  # noqa: SIM115
    with patch.object(spool, "_IN_MEMORY", 1), pytest.raises(TransientError, match=r"No space left.*TMPDIR"):
        spill()


def test_without_temporary_files_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Once memory is used up."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    spill()
    with patch.object(spool, "_IN_MEMORY", 1), pytest.raises(SettingsError, match="TMPDIR"):
        spill()


def spill() -> None:
    with Spool(Candidate) as pages:
        pages.add(CANDIDATES)
        assert list(pages.pages()) == [CANDIDATES]
