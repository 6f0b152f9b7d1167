"""Processes and folders that end with this process, by means of `guard.py`; and the errors of this package."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, Signals
from typing import Self

_GUARD = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py"))]
_LOG_LINES = 20
_POLL_SECONDS = 0.02
_GUARD_SECONDS = 10.0  # a guard's own time, beyond its server's grace period


class EmbeddedServerError(RuntimeError):
    """A server isn't installed, or doesn't start or stop. The message includes its last log lines."""


class PortTakenError(EmbeddedServerError):
    """Another process took the port before the server bound it. Start the server again with another port."""


class ScratchFolder:
    """A temporary folder, removed when the block or this process ends, and the last process started with it has."""

    path: Path
    _guard: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        parent = Path(tempfile.gettempdir()).resolve()
        self.path = parent / f"pipeline-processing-{secrets.token_hex(6)}"
        self._guard = _start_guard("folder", str(self.path), cwd=Path("/"), stderr=subprocess.DEVNULL)
        try:
            if not _first_line(self._guard):
                raise EmbeddedServerError(f"No folder can be made in {parent}. Set TMPDIR to a writable folder.")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _notify(self._guard)
        try:
            self._guard.wait(_GUARD_SECONDS)
        except subprocess.TimeoutExpired:
            raise EmbeddedServerError(f"{self.path} can't be removed. Remove it by hand.") from None

    def fileno(self) -> int:
        """The guard's pipe, for processes that keep the folder."""
        assert self._guard.stdin is not None
        return self._guard.stdin.fileno()


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """
    What to run. Error messages call it `name`. `account` is the user and group id to run as, by default this process's.

    `leftovers` are files outside its folder to remove after it has ended.
    """

    name: str
    command: Sequence[str | Path]
    cwd: Path
    log: Path
    account: tuple[int, int] | None = None
    stop_signal: Signals = SIGKILL
    stop_seconds: float = 0.0
    leftovers: Sequence[str] = ()


class GuardedProcess:
    """A running child process that logs to a file. It ends on stop(), or with this process."""

    def __init__(self, launch: Launch, *, folder: ScratchFolder) -> None:
        """Raises EmbeddedServerError if it can't be executed."""
        self._launch = launch
        order = {
            "command": [str(word) for word in launch.command],
            "environment": _environment(launch),
            "account": launch.account,
            "stop_signal": int(launch.stop_signal),
            "stop_seconds": launch.stop_seconds,
            "leftovers": list(launch.leftovers),
        }
        with launch.log.open("wb") as log:
            self._guard = _start_guard(
                "server",
                json.dumps(order),
                cwd=launch.cwd,
                stderr=log.fileno(),
                pass_fds=(folder.fileno(),),
            )
        try:
            pid = _first_line(self._guard)
            if not pid:
                self._guard.wait()
                raise EmbeddedServerError(f"{launch.name} can't be executed.{self._quoted_log()}")
            self.pid = int(pid)
        except BaseException:
            self.stop()
            raise

    def exit_code(self) -> int | None:
        """The exit code, 128 + n after signal n; None while it runs."""
        return self._guard.poll()

    def wait_until(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """
        Return once `ready()` is true.

        Raises PortTakenError or another EmbeddedServerError if the process ends first, or the time is up.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if (code := self.exit_code()) is not None:
                taken = _reports_taken_port(self._launch.log.read_text(errors="replace"))
                error = PortTakenError if taken else EmbeddedServerError
                raise error(f"{self._launch.name} ended with code {code} before it was ready.{self._quoted_log()}")
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"{self._launch.name} wasn't ready after {seconds:g} s.{self._quoted_log()} "
                    "Look for what slows this machine down, or allow more time by `start_seconds`."
                )
            time.sleep(_POLL_SECONDS)

    def wait_for_success(self, *, seconds: float) -> None:
        """
        Return once the process has ended with code 0.

        Raises EmbeddedServerError for another code, or if the time is up, after terminating it.
        """
        try:
            code = self._guard.wait(seconds)
        except subprocess.TimeoutExpired:
            raise EmbeddedServerError(
                f"{self._launch.name} wasn't done after {seconds:g} s.{self._quoted_log()}"
            ) from None
        finally:
            self.stop()
        if code != 0:
            raise EmbeddedServerError(f"{self._launch.name} failed with code {code}.{self._quoted_log()}")

    def stop(self) -> None:
        """Terminate the process, and wait until it has ended. May be called again."""
        _notify(self._guard)
        try:
            self._guard.wait(self._launch.stop_seconds + _GUARD_SECONDS)
        except subprocess.TimeoutExpired:
            raise EmbeddedServerError(
                f"{self._launch.name} can't be ended.{self._quoted_log()} "
                "Check whether it hangs in a file system that doesn't answer."
            ) from None

    def _quoted_log(self) -> str:
        lines = self._launch.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "".join(f"\n  | {line}" for line in lines) + "\n" if lines else " It has logged nothing."


def _start_guard(*arguments: str, cwd: Path, stderr: int, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own guard
        [*_GUARD, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        bufsize=0,
        cwd=cwd,
        pass_fds=pass_fds,
        start_new_session=True,
    )


def _first_line(guard: subprocess.Popen[bytes]) -> bytes:
    """Return the guard's answer, empty if it has failed."""
    assert guard.stdout is not None
    with guard.stdout as answer:
        return answer.readline()


def _notify(guard: subprocess.Popen[bytes]) -> None:
    # Send a byte too, because a forked child (multiprocessing) may keep the pipe open.
    assert guard.stdin is not None
    if not guard.stdin.closed:
        with contextlib.suppress(BrokenPipeError), guard.stdin as pipe:
            pipe.write(b".")


def _environment(launch: Launch) -> dict[str, str]:
    # Inherit nothing else: SeaweedFS would read keys from AWS_*, and Postgres settings from PG* and TZ.
    folder = str(launch.cwd)
    environment = {"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "LC_ALL": "C", "TZ": "UTC"}
    if libraries := os.environ.get("LD_LIBRARY_PATH"):
        environment["LD_LIBRARY_PATH"] = libraries
    return environment


def _reports_taken_port(log: str) -> bool:
    # Go, Java and Postgres print the errno's text; `weed mini` checks first: "port N for S3 … is not available".
    return "address already in use" in log.lower() or "is not available on" in log
