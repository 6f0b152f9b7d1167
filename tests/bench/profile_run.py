"""
Shows where the time of one run goes: the busy seconds of its stages, and the functions that a sampling profiler
(py-spy) saw most often, in C as well as in Python.

    python -m tests.bench.profile_run null-declared
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.bench.large_runs import PATHS, run
from tests.bench.report import aligned
from tests.bench.setting import ROOT, WIDE, Checkout, bench

_SAMPLES_PER_SECOND = 50  # more would slow the run down: reading native frames takes milliseconds
_SPANS = {"OTEL_TRACES_EXPORTER": "console"}
"""The run's spans tell the seconds of its stages."""
_MAIN, _LOOP = "<module> (pipeline_processing/cli/main.py)", "run_async (pipeline_processing/terminal/event_loop.py)"
"""What only says that the process runs."""
_OURS = ("pipeline_processing/", "copy_stream", "tests/bench")
"""In the names of our files, compiled ones included."""


def functions(stacks: Iterable[str]) -> tuple[Counter[str], Counter[str]]:
    """
    Count samples by function: where it was at the top of the stack, and where it was anywhere on it.

    `stacks` are py-spy's raw lines: frames with `;` between, outermost first, and the number of samples. The start of
    the process counts as one function.
    """
    top: Counter[str] = Counter()
    anywhere: Counter[str] = Counter()
    for line in stacks:
        stack, _, samples = line.rpartition(" ")
        frames = [re.sub(r":\d+\)$", ")", frame) for frame in stack.split(";")]
        if _LOOP in frames:
            frames = frames[frames.index(_LOOP) + 1 :]
        elif _MAIN in frames:
            frames = ["start of the process"]
        for frame in set(frames):
            anywhere[frame] += int(samples)
        top[frames[-1] if frames else _LOOP] += int(samples)
    return top, anywhere


def stages(log: str) -> dict[str, float]:
    """Return the busy seconds of each stage from the spans in a log."""
    found = re.findall(r'"name": "stage (\w+)".*?"busy_ms": ([\d.]+)', log, re.DOTALL)
    return {stage: float(busy_ms) / 1000 for stage, busy_ms in found}


def main() -> None:
    """Run once plainly for the stages, and once under the profiler."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile_run", description=__doc__)
    parser.add_argument("path", nargs="?", default="null", choices=[path.key for path in PATHS])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--functions", type=int, default=25, help="how many to show")
    options = parser.parse_args()
    (path,) = [path for path in PATHS if path.key == options.path]
    stacks = ROOT / f"build/profile-{path.key}.txt"
    stacks.parent.mkdir(exist_ok=True)
    profiler = [str(Path(Checkout().python).with_name("py-spy")), "record", "--native", "--format", "raw"]
    profiler += ["--rate", str(_SAMPLES_PER_SECOND), "--output", str(stacks), "--"]
    with bench() as running:
        running.load("wide", WIDE, options.rows)
        plain = run(running, Checkout(), path, "wide", env=_SPANS)
        run(running, Checkout(), path, "wide", under=profiler)
    top, anywhere = functions(stacks.read_text("utf-8").splitlines())
    print(f"{path.label}: {plain.figures['seconds']:.2f} s, {plain.figures['cpu']:.2f} s of CPU with its start")
    print("busy:", ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in stages(plain.stderr).items()), "\n")
    ours = Counter({frame: samples for frame, samples in anywhere.items() if any(part in frame for part in _OURS)})
    for title, counts in (("in the function itself", top), ("ours, with what they call", ours)):
        rows = [[frame, f"{samples / top.total():.1%}"] for frame, samples in counts.most_common(options.functions)]
        print(f"{title}\n{aligned(rows)}\n")
    print(f"All stacks, for a flame graph: {stacks.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
