"""
Measures the service against one Postgres backend, its targets and other tools, and prints tables. Best on a quiet
machine: everything takes about a quarter of an hour.

Contestants run in turns, so that noise affects all alike, and medians are compared. See docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

from tests.bench.idle import idle
from tests.bench.large_runs import LIMIT, narrow_runs, starts, wide_runs
from tests.bench.measuring import Contestant, in_turns
from tests.bench.peers import peers
from tests.bench.report import aligned, medians, text, write
from tests.bench.results import BEFORE, Group, commit, load, now, save
from tests.bench.setting import NARROW, WIDE, Bench, Checkout, bench
from tests.bench.small_runs import AGENCIES, SMALL, small_runs


@dataclass(frozen=True, slots=True)
class _Size:
    wide_rows: int = 500_000
    narrow_rows: int = 5_000_000
    rounds: int = 5
    start_rounds: int = 11
    small_runs: int = 1500
    seconds_of_latency: float = 6.0
    idle_seconds: float = 60.0


_QUICK = _Size(
    wide_rows=200_000,
    narrow_rows=1_000_000,
    rounds=2,
    start_rounds=3,
    small_runs=200,
    seconds_of_latency=2.0,
    idle_seconds=20.0,
)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A group to measure. Its contestants can be measured inside the block."""

    name: str
    title: str
    rounds: int
    contestants: Callable[[], AbstractContextManager[Sequence[Contestant]]]


def _plans(bench: Bench, checkouts: dict[str, Checkout], size: _Size) -> Iterator[_Plan]:
    @contextmanager
    def wide() -> Iterator[Sequence[Contestant]]:
        bench.load("wide", WIDE, size.wide_rows)
        yield [*wide_runs(bench, checkouts), *peers(bench)]

    @contextmanager
    def narrow() -> Iterator[Sequence[Contestant]]:
        bench.load("narrow", NARROW, size.narrow_rows)
        yield [*narrow_runs(bench, checkouts)]

    @contextmanager
    def start() -> Iterator[Sequence[Contestant]]:
        bench.load("one", WIDE, 1)
        yield [*starts(bench, checkouts)]

    @contextmanager
    def small() -> Iterator[Sequence[Contestant]]:
        bench.load("small", SMALL, AGENCIES * 100)
        bench.start_kafka()
        with small_runs(bench, checkouts, runs=size.small_runs, seconds=size.seconds_of_latency) as contestants:
            yield contestants

    @contextmanager
    def doing_nothing() -> Iterator[Sequence[Contestant]]:
        bench.load("idle", WIDE, 1)
        bench.start_kafka()
        with idle(bench, checkouts, seconds=size.idle_seconds) as contestants:
            yield contestants

    yield _Plan("wide", f"{size.wide_rows:,} rows of twelve columns", size.rounds, wide)
    yield _Plan("narrow", f"{size.narrow_rows:,} rows of six columns", size.rounds, narrow)
    yield _Plan("start", "Runs of one row, from start to end of the process", size.start_rounds, start)
    yield _Plan("small", "Small runs of 100 rows, through Kafka", size.rounds, small)
    yield _Plan("idle", "`serve` with nothing to do", size.rounds, doing_nothing)


def main() -> None:
    """Measure, show, and write."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds: rough figures in some minutes")
    parser.add_argument(
        "--only",
        action="append",
        metavar="GROUP[/NAME]",
        help="wide, narrow, start, small or idle; or some of it: wide/s3*",
    )
    parser.add_argument("--against", type=Path, metavar="PATH", help="another checkout with its .venv, in the same run")
    parser.add_argument("--show", action="store_true", help="measure nothing, but show the results kept")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the results kept into this page, too")
    options = parser.parse_args()
    shown = bool(options.show)
    if not options.show:
        checkouts = {"": Checkout()} | ({BEFORE: Checkout(options.against.resolve())} if options.against else {})
        shown = _measure(checkouts, _QUICK if options.quick else _Size(), options.only or ["*"])
    if shown:
        print(f"\n{text(load())}")
    if options.write:
        write(options.write, load())


def _measure(checkouts: dict[str, Checkout], size: _Size, only: Sequence[str]) -> bool:
    """Measure the groups, and keep the results of those that were measured whole. Returns whether there were any."""
    kept = False
    busy = os.getloadavg()[0]
    print(f"load of this machine: {busy:.1f}", flush=True)
    native = find_spec("pipeline_processing.sources.postgres.copy_stream")
    if native is None or not str(native.origin).endswith(".so"):
        print("The native reader isn't built, and so isn't measured: run `make install`.", flush=True)
    with bench() as running:
        for plan in _plans(running, checkouts, size):
            wanted = [pattern.partition("/")[2] for pattern in only if fnmatch(plan.name, pattern.partition("/")[0])]
            if not wanted:
                continue
            print(f"\n{plan.title}", flush=True)
            with plan.contestants() as contestants:
                chosen = [
                    each
                    for each in contestants
                    if each.key == LIMIT or any(fnmatch(each.key, pattern or "*") for pattern in wanted)
                ]
                labels = {each.key: each.label for each in chosen}
                rounds = in_turns(chosen, plan.rounds)
                group = Group(plan.title, labels, rounds, commit(), now(), busy)
            if len(chosen) == len(contestants):
                save({plan.name: group})
                kept = True
            else:
                print(f"\n{aligned(medians(group))}")
    return kept


if __name__ == "__main__":
    main()
