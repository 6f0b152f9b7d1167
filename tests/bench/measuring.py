"""
Runs processes and measures them: wall time, CPU of the processes and of Postgres apart, and peak memory.

Contestants run in turns, so that noise affects all alike, and their medians are compared.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

Figures = dict[str, float]
"""One measurement: name → value. Times are in seconds, memory in MiB."""
Rounds = dict[str, list[Figures]]
"""Contestant → its measurements, one for each round."""

_SAMPLE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Contestant:
    """What is measured. `measure` may raise Skipped."""

    key: str
    label: str
    measure: Callable[[], Figures]


class Skipped(Exception):
    """A contestant can't run here, for the given reason."""


def in_turns(contestants: Sequence[Contestant], rounds: int) -> Rounds:
    """Measure all contestants, round by round. Those that fail are left out, with a message."""
    results: Rounds = {each.key: [] for each in contestants}
    for number in range(rounds):
        for each in contestants:
            if each.key not in results:
                continue
            try:
                figures = each.measure()
            except (Skipped, subprocess.CalledProcessError) as error:
                del results[each.key]
                print(f"  {each.label}: left out. {_reason(error)}", flush=True)
                continue
            results[each.key].append(figures)
            told = ", ".join(f"{name} {value:,.4g}" for name, value in figures.items() if name not in ("rows", "bytes"))
            print(f"  round {number + 1}/{rounds} {each.label}: {told}", flush=True)
    return results


def middle(rounds: Rounds, key: str, figure: str) -> float | None:
    """Return the median of a contestant's figure; None if it wasn't measured."""
    values = [figures[figure] for figures in rounds.get(key, ()) if figure in figures]
    return median(values) if values else None


def ratio(rounds: Rounds, key: str, reference: str, figure: str = "seconds") -> float | None:
    """Return a contestant's median as a multiple of the reference's; None if either wasn't measured."""
    value, unit = middle(rounds, key, figure), middle(rounds, reference, figure)
    return None if value is None or not unit else value / unit


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in str(error.stderr).splitlines() if line.strip()]
        return f"Exit code {error.returncode}: {lines[-1][:300] if lines else 'no message'}"
    return str(error)


class CpuOfTree:
    """The CPU seconds of a process so far, with those of its children, also of children that have ended."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def __call__(self) -> float:
        children = " ".join(path.read_text() for path in Path(f"/proc/{self._pid}/task").glob("*/children"))
        ticks = sum(_ticks(self._pid)) + sum(sum(_ticks(int(pid))[:2]) for pid in children.split())
        return ticks / os.sysconf("SC_CLK_TCK")


def cpu_of_threads(pid: int) -> float:
    """Return the CPU seconds of a process's threads so far. Ticks are too coarse for an idle one."""
    times = [path.read_text().split()[0] for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(map(int, times)) / 1e9


def _ticks(pid: int) -> list[int]:
    """Return user and system time of a process, and of the children that it has waited for; zeros after its end."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return [0, 0, 0, 0]
    return [int(field) for field in fields[11:15]]


@dataclass(frozen=True, slots=True)
class Finished:
    """The output of processes that have ended, and what they used."""

    stdout: str
    stderr: str
    figures: Figures
    resident: Sequence[float]
    """MiB over time, of all of them together."""


def measured(
    *commands: Sequence[str | Path],
    server: Callable[[], float],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    discard: bool = False,
) -> Finished:
    """
    Run commands as a pipeline, and measure them together. `server` returns the CPU seconds of Postgres so far.

    With `discard`, the output goes to /dev/null. Raises CalledProcessError for the first that fails.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
        server_before, started = server(), time.perf_counter()
        processes: list[subprocess.Popen[bytes]] = []
        for number, command in enumerate(commands):
            last = number == len(commands) - 1
            processes.append(
                subprocess.Popen(
                    [str(word) for word in command],
                    stdin=processes[-1].stdout if processes else subprocess.DEVNULL,
                    stdout=(subprocess.DEVNULL if discard else output) if last else subprocess.PIPE,
                    stderr=messages,
                    env=env,
                    cwd=cwd,
                )
            )
            if number:
                _close(processes[number - 1])
        with _Memory([process.pid for process in processes]) as memory:
            cpu = sum(_wait(process) for process in processes)
            wall = time.perf_counter() - started
        messages.seek(0)
        said = messages.read().decode(errors="replace")
        for process in processes:
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args, stderr=said)
        output.seek(0)
        figures = {"seconds": wall, "cpu": cpu, "server_cpu": server() - server_before, "peak_mib": memory.peak}
        return Finished(output.read().decode(), said, figures, memory.resident)


def _close(process: subprocess.Popen[bytes]) -> None:
    """Close our end of a pipe, so that the writer notices when the reader ends."""
    assert process.stdout is not None
    process.stdout.close()


def _wait(process: subprocess.Popen[bytes]) -> float:
    """Wait for the end of a process, and return its CPU seconds."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


class _Memory:
    """
    Samples the memory of processes. Not from `wait4`, which counts the memory of this process, of which they are forks.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self.resident: list[float] = []
        self._peaks = dict.fromkeys(pids, 0.0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    @property
    def peak(self) -> float:
        return sum(self._peaks.values())

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            resident = 0.0
            for pid in self._peaks:
                now, peak = resident_mib(pid)
                resident += now
                self._peaks[pid] = max(self._peaks[pid], peak)
            self.resident.append(resident)
            if self._over.wait(_SAMPLE_SECONDS):
                return


def resident_mib(pid: int) -> tuple[float, float]:
    """Return the resident memory of a process, now and at its peak; zeros after its end."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if name[:2] == "Vm"}
    return kib.get("VmRSS", 0) / 1024, kib.get("VmHWM", 0) / 1024
