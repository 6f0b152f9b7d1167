"""The results of benchmarks, kept as JSON, and how they compare with the targets."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.large_runs import LIMIT
from tests.bench.measuring import Rounds, middle
from tests.bench.setting import ROOT

FILE = ROOT / "build/bench.json"
BEFORE = "before: "
"""Prefix of the contestants of another checkout."""

_SHARED = {LIMIT, "copy-csv", "duckdb"}
"""Contestants that are no checkout's."""


@dataclass(frozen=True, slots=True)
class Group:
    """Contestants that were measured in turns, in one session."""

    title: str
    labels: Mapping[str, str]
    rounds: Rounds
    commit: str
    measured_at: str
    load: float
    """Processes that wanted to run in the minute before: more than a few tenths, and the figures are noisy."""


def commit() -> str:
    """Name the commit of this checkout."""
    revision = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(revision, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def now() -> str:
    """Return date and time."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


Groups = Mapping[str, Group]


def save(groups: Groups) -> None:
    """Keep these groups, instead of those of the same names."""
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps({name: asdict(group) for name, group in {**load(), **groups}.items()}, indent=1))


def load() -> dict[str, Group]:
    """Return the groups kept."""
    if not FILE.exists():
        return {}
    return {name: Group(**group) for name, group in json.loads(FILE.read_text()).items()}


def machine() -> str:
    """Describe this machine."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(":")[2].strip() if models else platform.machine()
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({model}), {gib:.0f} GiB, Python {platform.python_version()}"


@dataclass(frozen=True, slots=True)
class Measures:
    """Medians of the contestants of one checkout."""

    groups: Groups
    prefix: str = ""

    def of(self, group: str, key: str, figure: str = "seconds") -> float | None:
        """The median of a figure; None if it wasn't measured."""
        measured = self.groups.get(group)
        own = key if key in _SHARED else self.prefix + key
        return None if measured is None else middle(measured.rounds, own, figure)

    def times(self, group: str, key: str, reference: str = LIMIT, figure: str = "seconds") -> float | None:
        """A figure as a multiple of the reference's."""
        return _divided(self.of(group, key, figure), self.of(group, reference, figure))


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that must be `at_most` or else at least `bound`."""

    what: str
    bound: float
    reached: Callable[[Measures], float | None]
    unit: str = "×"
    at_most: bool = True

    def met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def shown(self, value: float | None) -> str:
        """The value with its unit."""
        if value is None:
            return "–"
        number = f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2f}"
        return f"{number} {self.unit}"


def _divided(value: float | None, by: float | None) -> float | None:
    return None if value is None or not by else value / by


def _rows_per_cpu_second(at: Measures) -> float | None:
    """Without the CPU that the process takes to start."""
    rows, cpu, start = at.of("narrow", "s3", "rows"), at.of("narrow", "s3", "cpu"), at.of("start", "s3", "cpu")
    return None if rows is None or cpu is None or start is None else rows / (cpu - start)


def _growth(at: Measures) -> float | None:
    early, late = at.of("narrow", "s3", "quarter_2_mib"), at.of("narrow", "s3", "quarter_4_mib")
    return None if early is None or late is None else late - early


def _gain_of_two(at: Measures) -> float | None:
    """
    Two processes against one. They share the cores with Postgres, which in production has its own: without its CPU, the
    cores would have done the same runs in less time.
    """
    one, two, server = (
        at.of("small", "one", "runs_per_second"),
        at.of("small", "two", "runs_per_second"),
        at.of("small", "two", "server_cpu_ms"),
    )
    if one is None or two is None or server is None:
        return None
    return 1 / (1 / two - server / 1000 / (os.cpu_count() or 1)) / one


def _percent_more(value: float | None) -> float | None:
    return None if value is None else (value - 1) * 100


TARGETS: Sequence[Target] = (
    Target("null, no steps", 0.9, lambda at: at.times("wide", "null")),
    Target("null, three built-in steps + declared function", 1.2, lambda at: at.times("wide", "null-declared")),
    Target("the same, function not declared", 2.0, lambda at: at.times("wide", "null-undeclared")),
    Target("S3, no steps", 1.4, lambda at: at.times("wide", "s3")),
    Target("S3, three built-in steps + declared function", 1.7, lambda at: at.times("wide", "s3-declared")),
    Target("null, CSV", 1.2, lambda at: at.times("wide", "null-csv")),
    Target("null, CSV, to Postgres's own COPY CSV", 1.0, lambda at: at.times("wide", "null-csv", "copy-csv")),
    Target("cursor reader, null, no steps", 1.4, lambda at: at.times("wide", "cursor")),
    Target("cursor reader, null, declared function", 3.0, lambda at: at.times("wide", "cursor-declared")),
    Target(
        "as fast as DuckDB's scanner, to S3",
        1.4,
        lambda at: _divided(at.of("wide", "duckdb"), at.of("wide", "s3")),
        at_most=False,
    ),
    Target("peak memory, to DuckDB's", 0.25, lambda at: at.times("wide", "s3", "duckdb", "peak_mib")),
    Target("narrow rows, S3, a client's CPU second", 1e6, _rows_per_cpu_second, unit="rows", at_most=False),
    Target("peak memory, many narrow rows", 110, lambda at: at.of("narrow", "s3", "peak_mib"), unit="MiB"),
    Target("its growth over the second half of the run", 5, _growth, unit="MiB"),
    Target(
        "small runs, one process", 200, lambda at: at.of("small", "one", "runs_per_second"), unit="/s", at_most=False
    ),
    Target("CPU of a small run in `serve`", 5, lambda at: at.of("small", "one", "cpu_ms"), unit="ms"),
    Target("p99 from request to event, at half that load", 40, lambda at: at.of("small", "one", "p99_ms"), unit="ms"),
    Target("two processes to one, Postgres not counted", 1.5, _gain_of_two, at_most=False),
    Target(
        "tracing, large run: more time", 3, lambda at: _percent_more(at.times("wide", "null-traced", "null")), unit="%"
    ),
    Target(
        "tracing, small runs: more CPU",
        3,
        lambda at: _percent_more(at.times("small", "one-traced", "one", "cpu_ms")),
        unit="%",
    ),
    Target("`run` of one row to S3, whole process", 0.35, lambda at: at.of("start", "s3"), unit="s"),
    Target("`serve` ready after", 1, lambda at: at.of("idle", "serve", "ready_s"), unit="s"),
    Target("its memory when idle", 90, lambda at: at.of("idle", "serve", "idle_mib"), unit="MiB"),
    Target("its CPU when idle", 0.5, lambda at: at.of("idle", "serve", "idle_percent"), unit="%"),
)
