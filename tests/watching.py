"""Waits for a condition, with a deadline, and lists processes."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], seconds: float = 60.0) -> T:
    """
    Poll the condition, and return its value once it is true. Fails after `seconds`, by default those that a busy
    machine may need: there, a service takes five times as long to start.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        time.sleep(0.02)  # poll, because other processes don't notify us
    return value


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of all users' processes whose working directory or command line is in the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in command or str((process / "cwd").readlink()).startswith(str(folder)):
                found.append(command)
    return found
