"""Shows results: tables for the terminal and for docs/performance.md, and a plot."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from tests.bench.large_runs import LIMIT
from tests.bench.measuring import Figures, middle, ratio
from tests.bench.results import BEFORE, TARGETS, Group, Groups, Measures, machine

_MARKERS = re.compile(r"(<!-- figures: [^\n]*-->\n).*(<!-- end of figures -->)", re.DOTALL)
_COLUMNS = {
    "whole": "with start, s",
    "cpu": "CPU, s",
    "server_cpu": "Postgres CPU, s",
    "peak_mib": "peak MiB",
    "runs_per_second": "runs/s",
    "cpu_ms": "CPU a run, ms",
    "server_cpu_ms": "Postgres CPU a run, ms",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "ready_s": "ready after, s",
    "ready_cpu_s": "CPU until then, s",
    "idle_mib": "idle MiB",
    "idle_percent": "idle CPU, %",
}
"""Figures that have a column, if a contestant of the group has them, and its title."""
_QUIET = 1.0

Table = Sequence[Sequence[str]]
"""Rows of cells, the first with the titles."""


def targets(groups: Groups) -> Table:
    """Targets against what was reached; with another checkout's figures if they were measured."""
    now, before = Measures(groups), Measures(groups, BEFORE)
    older = any(key.startswith(BEFORE) for group in groups.values() for key in group.rounds)
    rows = [["what", "target", *(["before"] if older else []), "reached", ""]]
    for target in TARGETS:
        value = target.reached(now)
        met = "" if value is None else "yes" if target.met(value) else "no"
        bound = f"{'≤' if target.at_most else '≥'} {target.shown(target.bound)}"
        was = [target.shown(target.reached(before))] if older else []
        rows.append([target.what, bound, *was, target.shown(value), met])
    return rows


def medians(group: Group) -> Table:
    """All contestants of a group: medians, and their ratio to the limit if the group has one."""
    measured = {name for rounds in group.rounds.values() for figures in rounds for name in figures}
    columns = [name for name in _COLUMNS if name in measured]
    times = ["s", *(["× limit"] if LIMIT in group.rounds else [])] if "seconds" in measured else []
    rows = [["", *times, *(_COLUMNS[name] for name in columns)]]
    for key in group.rounds:
        cells = []
        if times:
            cells.append(_number(middle(group.rounds, key, "seconds")))
        if LIMIT in group.rounds:
            cells.append(_number(ratio(group.rounds, key, LIMIT)))
        cells += [_number(middle(group.rounds, key, name)) for name in columns]
        rows.append([group.labels[key], *cells])
    return rows


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 50 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def aligned(table: Table) -> str:
    """Return a table for the terminal."""
    widths = [max(len(row[number]) for row in table) for number in range(len(table[0]))]
    lines = []
    for first, *others in table:
        rest = "".join(f"  {cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        lines.append(f"{first:<{widths[0]}}{rest}".rstrip())
    return "\n".join(lines)


def markdown(table: Table) -> str:
    """Return a table for a page."""
    title, *rows = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([title, f"|---|{'--:|' * (len(table[0]) - 1)}", *rows])


def text(groups: Groups) -> str:
    """Return everything, for the terminal."""
    parts = [f"{group.title}\n{aligned(medians(group))}" for group in groups.values()]
    return "\n\n".join([*parts, aligned(targets(groups))])


def write(page: Path, groups: Groups) -> None:
    """Write tables into a page, between its markers, and the plot beside it."""
    plot_file = page.parent / "images/performance.svg"
    if "wide" in groups:
        plot_file.write_text(plot(groups["wide"]), "utf-8")
    written, number = _MARKERS.subn(lambda found: found[1] + _figures(groups) + found[2], page.read_text("utf-8"))
    assert number == 1, f"{page} needs the two markers, once"
    page.write_text(written, "utf-8")


def _figures(groups: Groups) -> str:
    parts = [f"On {machine()}."]
    parts += ["### Targets", markdown(targets(groups))]
    for name, group in groups.items():
        rounds = max(len(rounds) for rounds in group.rounds.values())
        busy = f"; the machine was busy, load {group.load:.1f}" if group.load > _QUIET else ""
        parts += [f"### {group.title}", f"{group.measured_at}, commit {group.commit}, medians of {rounds}{busy}."]
        if name == "wide":
            parts.append("![Seconds as a multiple of the limit](images/performance.svg)")
        parts.append(markdown(medians(group)))
    return "\n" + "\n\n".join(parts) + "\n\n"


# -- the plot ------------------------------------------------------------------------------------

_LEFT, _WIDTH, _BAR, _GAP, _TOP = 310, 800, 16, 8, 34
_LONGEST = 5.0
_OURS, _THEIRS, _OLDER = "#2563eb", "#9ca3af", "#bfdbfe"


def plot(group: Group) -> str:
    """
    Return an SVG with a bar for each contestant: its median as a multiple of the limit, and its range. Bars beyond
    `_LONGEST` are cut, so that the others can be compared.
    """
    paths = [key for key in group.rounds if not key.startswith(BEFORE)]
    keys = [key for path in paths for key in (path, BEFORE + path)]
    shown = [(key, value) for key in keys if (value := ratio(group.rounds, key, LIMIT)) is not None]
    scale = (_WIDTH - _LEFT - 60) / min(max(value for _, value in shown), _LONGEST)
    height = _TOP + len(shown) * (_BAR + _GAP) + 12
    unit = middle(group.rounds, LIMIT, "seconds") or 1.0
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif"'
        ' font-size="12">',
        f"<title>{escape(group.title)}: seconds as a multiple of the limit</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        '<text x="8" y="20" font-weight="bold">Seconds, as a multiple of psql COPY BINARY &gt; /dev/null</text>',
    ]
    for number, (key, value) in enumerate(shown):
        lines += _bar(_TOP + number * (_BAR + _GAP), key, group, value=value, scale=scale, unit=unit)
    limit = _LEFT + scale
    lines.append(f'<line x1="{limit:.1f}" x2="{limit:.1f}" y1="{_TOP - 4}" y2="{height - 8}" stroke="#dc2626"/>')
    return "\n".join([*lines, "</svg>\n"])


def _bar(y: int, key: str, group: Group, *, value: float, scale: float, unit: float) -> Iterator[str]:
    ours = any(name in key for name in ("null", "s3", "cursor"))
    colour = _OLDER if key.startswith(BEFORE) else _OURS if ours else _THEIRS
    length, cut = min(value, _LONGEST) * scale, value > _LONGEST
    least, most = (min(edge / unit, _LONGEST) * scale for edge in _range(group.rounds[key]))
    middle_y, text_y = y + _BAR / 2, y + _BAR - 4
    yield f'<text x="{_LEFT - 8}" y="{text_y}" text-anchor="end">{escape(group.labels[key])}</text>'
    yield f'<rect x="{_LEFT}" y="{y}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>'
    yield (f'<line x1="{_LEFT + least:.1f}" x2="{_LEFT + most:.1f}" y1="{middle_y}" y2="{middle_y}" stroke="#111827"/>')
    number = f"→ {value:.1f}" if cut else f"{value:.2f}"
    yield f'<text x="{_LEFT + max(length, most) + 6:.1f}" y="{text_y}">{number}</text>'


def _range(rounds: Sequence[Figures]) -> tuple[float, float]:
    seconds = [figures["seconds"] for figures in rounds]
    return min(seconds), max(seconds)
