"""How a command's process is run: its garbage collection."""

from __future__ import annotations

import subprocess
import sys

_CYCLES = """
import gc, weakref
from pipeline_processing.terminal.event_loop import collect_garbage_rarely

gc.disable()  # as `main` does

class Knot:
    def __init__(self):
        self.itself = self

started = len(gc.get_objects())
collect_garbage_rarely()
there, most = weakref.WeakSet(), 0
for _ in range(200_000):
    there.add(Knot())
    most = max(most, len(there))
print(started, gc.get_freeze_count(), most)
"""


def test_cycles_are_still_collected_while_what_was_there_at_the_start_is_exempt() -> None:
    """Objects that refer to themselves never pile up: memory stays flat over a long run."""
    done = subprocess.run([sys.executable, "-c", _CYCLES], capture_output=True, text=True, check=True)

    started, frozen, most = map(int, done.stdout.split())

    assert frozen >= started
    assert most < 25_000


_LONG = """
import asyncio, gc
from pipeline_processing.terminal import event_loop

async def work():
    before = gc.isenabled()
    async with asyncio.timeout(30):
        while not gc.isenabled():
            await asyncio.sleep(0.01)
    return before

gc.disable()  # as `main` does
event_loop._START_SECONDS = 0.01
print(event_loop.run_async(work()))
"""


def test_garbage_is_collected_once_a_command_has_started() -> None:
    done = subprocess.run([sys.executable, "-c", _LONG], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
