"""Embedded servers leave nothing behind: no process, no folder, no socket, however we end."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from pipeline_processing.embedded import guard
from pipeline_processing.embedded.postgres import PostgresServer
from pipeline_processing.embedded.process import EmbeddedServerError
from pipeline_processing.embedded.servers import embedded_servers
from tests.watching import eventually, processes_in

_DEADLINE_SECONDS = 20.0

# The parent that the tests end. It tells when all are up, and then waits for us.
_PARENT = """
import json, sys
from pipeline_processing.embedded.servers import embedded_servers
with embedded_servers() as servers:
    print(json.dumps([servers.postgres.pid, servers.seaweedfs.pid, servers.kafka.pid]), flush=True)
    sys.stdin.read()
"""


# Most of these start a Kafka.


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Everybody may enter it, unlike tmp_path, and the launchers' temporary folders are made in it."""
    with TemporaryDirectory() as made:
        os.chmod(made, 0o711)
        monkeypatch.setenv("TMPDIR", made)
        monkeypatch.setattr("tempfile.tempdir", None)  # have it read TMPDIR again
        yield Path(made)
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture
def parent(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        process.kill()


def sockets_of(seaweedfs_pid: int) -> Callable[[], list[Path]]:
    """A view of those in /tmp of one server, found by its ports also after it has ended."""
    command = Path(f"/proc/{seaweedfs_pid}/cmdline").read_text()
    names = [f"seaweedfs-*-{int(port) + 10_000}.sock" for port in re.findall(r"\w\.port=(\d+)", command)]
    return lambda: [found for name in names for found in Path("/tmp").glob(name)]


def assert_nothing_is_left(folder: Path) -> None:
    assert processes_in(folder) == []
    assert list(folder.iterdir()) == []


def test_nothing_is_left_after_the_block(folder: Path) -> None:
    """Processes, folder and sockets are gone when an exception has left the block, and it passes through."""

    def leave() -> None:
        with embedded_servers() as servers:
            sockets.append(sockets_of(servers.seaweedfs.pid))
            assert len(processes_in(folder)) > 2
            assert sockets[0]()
            raise LookupError

    sockets: list[Callable[[], list[Path]]] = []
    with pytest.raises(LookupError):
        leave()

    assert_nothing_is_left(folder)
    assert not sockets[0]()


def test_nothing_is_left_after_a_failed_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one server can't start, the others go as well."""

    def fails(server: PostgresServer) -> None:
        raise EmbeddedServerError("made up")

    monkeypatch.setattr(PostgresServer, "wait_until_ready", fails)

    with pytest.raises(EmbeddedServerError, match="made up"), embedded_servers():
        pass

    assert_nothing_is_left(folder)


def test_a_forked_child_doesn_t_keep_the_servers(folder: Path) -> None:
    """A child of multiprocessing inherits our pipes to the guards; stopping goes on at once all the same."""
    context = multiprocessing.get_context("fork")
    with PostgresServer():
        release = context.Event()
        child = context.Process(target=release.wait, args=(_DEADLINE_SECONDS,))
        child.start()

    try:
        assert_nothing_is_left(folder)
        assert child.is_alive()
    finally:
        release.set()
        child.join()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGKILL]
)
def test_nothing_is_left_when_the_parent_is_ended(
    number: signal.Signals, folder: Path, parent: subprocess.Popen[str]
) -> None:
    """Ctrl-C (to the whole process group), SIGTERM and a crash end servers and folder as well."""
    assert parent.stdout is not None
    pids = json.loads(parent.stdout.readline())
    sockets = sockets_of(pids[1])
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    assert sockets()

    os.killpg(parent.pid, number)
    parent.wait(_DEADLINE_SECONDS)

    eventually(lambda: not processes_in(folder) and not list(folder.iterdir()), _DEADLINE_SECONDS)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not sockets()


@pytest.mark.parametrize(
    "reached",
    [
        pytest.param("pipeline-processing-*", marks=pytest.mark.long),
        pytest.param("*/kafka/server.log", marks=pytest.mark.long),
        "*/seaweedfs/server.log",
        "*/postgres/initdb.log",
        pytest.param("*/postgres/server.log", marks=pytest.mark.long),
    ],
)
def test_nothing_is_left_when_the_parent_is_killed_while_starting(
    reached: str, folder: Path, parent: subprocess.Popen[str]
) -> None:
    """A crash half-way through the start is cleaned up too."""
    eventually(lambda: any(folder.glob(reached)), _DEADLINE_SECONDS)

    parent.kill()
    parent.wait(_DEADLINE_SECONDS)

    eventually(lambda: not processes_in(folder) and not list(folder.iterdir()), _DEADLINE_SECONDS)


def test_a_starter_that_dies_before_the_answer_leaves_nothing(folder: Path) -> None:
    """The guards end what they have begun also when nobody is there any more to hear of it."""
    order = {
        "command": ["sleep", "60"],
        "environment": {"PATH": os.environ["PATH"]},
        "account": None,
        "stop_signal": signal.SIGTERM,
        "stop_seconds": 5,
        "leftovers": [],
    }
    for arguments in (["server", json.dumps(order)], ["folder", str(folder / "made")]):
        reading, writing = os.pipe()
        os.close(reading)
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", guard.__file__, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=subprocess.PIPE,
                cwd=folder,
                timeout=_DEADLINE_SECONDS,
            )
        finally:
            os.close(writing)
        assert done.stderr == b""

    assert_nothing_is_left(folder)
