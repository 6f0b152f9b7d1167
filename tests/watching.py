"""Waiting for what other processes do, with a deadline, and seeing which of them are there."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], seconds: float = 20.0) -> T:
    """What the condition gives as soon as it is true. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        time.sleep(0.02)  # between two looks: nothing tells us of another process's change
    return value


def processes_in(folder: Path) -> list[str]:
    """Command lines of those whose working directory or command line is in the folder, whoever they belong to."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended while we looked
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in command or str((process / "cwd").readlink()).startswith(str(folder)):
                found.append(command)
    return found
