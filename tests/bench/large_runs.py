"""One large run: what it costs on each path, as a multiple of a COPY by one Postgres backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from tests.bench.measuring import Contestant, Figures, Finished
from tests.bench.setting import QUERY, Bench, Checkout, job, traced

LIMIT = "limit"
"""The reference: COPY BINARY by psql, discarded."""

_HOOK = "tests.bench.hooks:change_two_columns"
_BUILT_IN: list[dict[str, Any]] = [
    {"select": [
        "id", "name", "status", "note", "amount", "latitude", "longitude", "subscribed", "created_at", "attributes",
    ]},
    {"rename": {"note": "remark"}},
    {"filter": "amount > 0"},
]  # fmt: skip
_DECLARED = {"python": {"function": _HOOK, "reads": ["name", "status"]}}
_COLUMNS = {
    "python": {"function": "tests.bench.hooks:change_two_lists", "takes": "columns", "reads": ["name", "status"]}
}
_CURSOR = {"PIPELINE_SOURCE__READER": "cursor"}


@dataclass(frozen=True, slots=True)
class Path:
    """A way through the service. Into the null destination unless `to_s3`; `changes` are the dataset's."""

    key: str
    label: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    to_s3: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    traced: bool = False


PATHS = (
    Path("null", "null, no steps"),
    Path("null-steps", "null, three built-in steps", {"steps": _BUILT_IN}),
    Path("null-declared", "null, three steps, declared function", {"steps": [*_BUILT_IN, _DECLARED]}),
    Path("null-undeclared", "null, three steps, undeclared function", {"steps": [*_BUILT_IN, {"python": _HOOK}]}),
    Path("null-columns", "null, three steps, function of columns", {"steps": [*_BUILT_IN, _COLUMNS]}),
    Path("null-csv", "null, CSV", {"format": "csv"}),
    Path("null-traced", "null, no steps, traced", traced=True),
    Path("cursor", "cursor reader, null, no steps", env=_CURSOR),
    Path("cursor-declared", "cursor reader, null, declared function", {"steps": [*_BUILT_IN, _DECLARED]}, env=_CURSOR),
    Path("s3", "S3, no steps", to_s3=True),
    Path("s3-declared", "S3, three steps, declared function", {"steps": [*_BUILT_IN, _DECLARED]}, to_s3=True),
    Path("s3-gzip", "S3, gzip", {"compression": "gzip"}, to_s3=True),
    Path("s3-zstd", "S3, zstd", {"compression": "zstd"}, to_s3=True),
)

_numbers = count()


def run(
    bench: Bench,
    checkout: Checkout,
    path: Path,
    table: str,
    *,
    env: Mapping[str, str] | None = None,
    under: Sequence[str] = (),
) -> Finished:
    """Make one run over a whole table; see `Bench.run`."""
    job_file = bench.file(f"{table}-{path.key}.json", job(table, **path.changes))
    options = ["--run-id", f"{path.key}-{next(_numbers)}"] if path.to_s3 else ["--dry-run"]
    variables = {**path.env, **(traced(bench) if path.traced else {}), **(env or {})}
    return bench.run(checkout, job_file, *options, env=variables, under=under)


def _measure(bench: Bench, checkout: Checkout, path: Path, table: str) -> Figures:
    finished = run(bench, checkout, path, table)
    if table == "narrow":
        quarter = max(1, len(finished.resident) // 4)
        for number in range(4):
            finished.figures[f"quarter_{number + 1}_mib"] = max(finished.resident[number * quarter :][:quarter])
    return finished.figures


def limit(bench: Bench, table: str) -> Contestant:
    """The reference of all ratios."""
    query = QUERY.format(table=table, agency=1)
    return Contestant(
        LIMIT, "psql COPY BINARY > /dev/null", partial(bench.copied, f"COPY ({query}) TO STDOUT (FORMAT binary)")
    )


def wide_runs(bench: Bench, checkouts: Mapping[str, Checkout]) -> Iterator[Contestant]:
    """All paths on wide rows, for each checkout, by the prefix of its keys; and Postgres's own CSV."""
    yield limit(bench, "wide")
    query = QUERY.format(table="wide", agency=1)
    yield Contestant(
        "copy-csv", "psql COPY CSV > /dev/null", partial(bench.copied, f"COPY ({query}) TO STDOUT (FORMAT csv)")
    )
    for prefix, checkout in checkouts.items():
        for path in PATHS:
            if not prefix or not (path.env or path.traced):  # what only this checkout is compared in
                yield Contestant(
                    prefix + path.key, prefix + path.label, partial(_measure, bench, checkout, path, "wide")
                )


def narrow_runs(bench: Bench, checkouts: Mapping[str, Checkout]) -> Iterator[Contestant]:
    """Many narrow rows to S3, for CPU and memory."""
    yield limit(bench, "narrow")
    path = Path("s3", "S3, no steps", to_s3=True)
    for prefix, checkout in checkouts.items():
        yield Contestant(prefix + path.key, prefix + path.label, partial(_measure, bench, checkout, path, "narrow"))


def starts(bench: Bench, checkouts: Mapping[str, Checkout]) -> Iterator[Contestant]:
    """Runs of one row, which show what a process needs to start. Their `seconds` are those of the whole process."""

    def start(checkout: Checkout, path: Path) -> Figures:
        figures = _measure(bench, checkout, path, "one")
        return {**figures, "seconds": figures["whole"], "inside": figures["seconds"]}

    for prefix, checkout in checkouts.items():
        for path in (Path("null", "`run --dry-run` of one row"), Path("s3", "`run` of one row to S3", to_s3=True)):
            yield Contestant(prefix + path.key, prefix + path.label, partial(start, checkout, path))
